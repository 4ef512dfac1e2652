"""What a person looks at: one HTML page for a run, an overview of many, and what fits a terminal."""
