"""TensorRT engines through Polygraphy: strongly typed, one path for both SDKs, each build in a process of its own."""
