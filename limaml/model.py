"""A trained model as files: `model/<version>/` holds the weights, how to rebuild the network, and a manifest."""
