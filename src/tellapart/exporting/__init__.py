"""The classifier as it is shipped: bundle, card, and the object that answers."""
