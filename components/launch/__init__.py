"""Work that a step hands to other processes and pods: made, watched and cleared away by the step."""
