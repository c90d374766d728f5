"""Outputs of other libraries and engines on the same models."""
