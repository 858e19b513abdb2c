"""The use-cases, on the ports alone: deploy, start, shift, promote, roll back, delete, and what they leave in the ledger."""
