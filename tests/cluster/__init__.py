"""The chart, the launchers and the doctor on a real cluster."""
