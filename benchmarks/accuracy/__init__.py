"""Errors of trained models."""
