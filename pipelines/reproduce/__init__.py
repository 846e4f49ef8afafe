"""The paper's tables as commands: `limaml reproduce table3 --app ptap --seeds 5`."""
