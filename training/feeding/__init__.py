"""Samples become batches, in processes of their own."""
