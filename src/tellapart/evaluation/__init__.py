"""From a model and images to numbers with their uncertainty."""
