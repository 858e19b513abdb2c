"""``python -m mlflow_istio.cli``."""

from mlflow_istio.cli import main

if __name__ == "__main__":
    main()
