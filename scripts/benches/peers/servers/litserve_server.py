"""LitServe: JSON in and out. MODEL names the ONNX file, PORT where to listen."""

from __future__ import annotations

import os

import litserve
import numpy as np
import onnxruntime as ort


class Model(litserve.LitAPI):
    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options)
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request):
        return np.array(request["input"], np.float32)

    def predict(self, x):
        return self.session.run(None, {self.name: x})[0]

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Model(), accelerator="cpu", workers_per_device=1, fast_queue=bool(int(os.environ.get("FQ", "1")))
    )
    server.run(
        port=int(os.environ["PORT"]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
