"""The run folder: who may write it, and what is recorded there."""
