module mlflow-istio-node/pause

go 1.26.0
