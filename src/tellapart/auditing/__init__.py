"""What is wrong with a data set: unreadable, there twice, leaked, mislabelled, odd."""
