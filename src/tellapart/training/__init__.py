"""The loop and what it needs: step, state, checkpoints, history, display."""
