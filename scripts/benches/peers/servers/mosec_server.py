"""Mosec with batching: raw float32 bytes in and out. MODEL names the ONNX file."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker

MAX_BATCH = 16
WAIT_MILLISECONDS = 1


class Model(Worker):
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options)
        self.name = self.session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, {self.name: np.stack(data)})[0])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MILLISECONDS)
    server.run()
