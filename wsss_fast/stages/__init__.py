"""Stages that several methods share: functions that read artefacts and write artefacts."""
