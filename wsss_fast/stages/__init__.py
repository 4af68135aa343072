"""Stages: plain functions from artefacts to artefacts, shared by the methods."""
