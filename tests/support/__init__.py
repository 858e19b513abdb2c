"""What several suites share: values to start from, and who plays whose other side."""
