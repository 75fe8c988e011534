"""Failures that are nobody's bug, so that the command line can answer each in one line without importing torch."""

__all__ = ["TrainingDiverged", "TrainingInterrupted"]


class TrainingDiverged(RuntimeError):
    """A loss term became NaN or infinite; the message names the term, the step and the last good checkpoint."""


class TrainingInterrupted(RuntimeError):
    """A training was asked to stop and has saved itself; the message says how to go on."""
