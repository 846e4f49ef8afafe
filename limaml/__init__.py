"""LiMAML: meta-learned personalization of deep recommender models (arXiv 2403.00803)."""

__version__ = "0.1.0"
