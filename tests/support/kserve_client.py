"""KServe's Python client against a node; run by the Python of KServe's own virtual environment.

`kserve_client.py HTTP_URL GRPC_ADDRESS MODEL PAID VOUCHERS` prints what it got as JSON. The project's own
gRPC messages are loaded beside KServe's stubs, before or after them as `ASSAY_FIRST` says.
"""

import asyncio
import json
import os
import sys

if os.environ.get("ASSAY_FIRST"):
    from assay.node.grpc.messages import load_messages

    load_messages()

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

if not os.environ.get("ASSAY_FIRST"):
    from assay.node.grpc.messages import load_messages

    load_messages()

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


def request(model: str, parameters: dict | None = None, *, binary: bool = False) -> InferRequest:
    tensor = InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(ROW, binary_data=binary)
    return InferRequest(model, [tensor], request_id="seven", parameters=parameters or {})


def told(response) -> dict:
    parameters = response.parameters or {}
    receipt = parameters["receipt"]
    text = receipt if isinstance(receipt, str) else receipt.string_param
    return {"id": response.id, "y": response.outputs[0].as_numpy().tolist(), "receipt": json.loads(text)}


async def rest(url: str, model: str, paid: str, voucher: dict) -> dict:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, model),
        "json": told(await client.infer(url, request(model), model_name=model)),
        "binary": told(await client.infer(url, request(model, binary=True), model_name=model)),
        "paid": told(await client.infer(url, request(paid, voucher), model_name=paid)),
    }
    try:
        await client.infer(url, request(paid), model_name=paid)
    except Exception as error:
        found["error"] = str(error)
    await client.close()
    return found


async def grpc(address: str, model: str, paid: str, voucher: dict) -> dict:
    client = InferenceGRPCClient(address, retries=0)
    found = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready(model),
        "typed": told(await client.infer(request(model))),
        "binary": told(await client.infer(request(model, binary=True))),
        "paid": told(await client.infer(request(paid, voucher))),
    }
    try:
        await client.infer(request(paid))
    except Exception as error:
        found["error"] = str(error)
    await client.close()
    return found


async def main() -> None:
    url, address, model, paid, vouchers = sys.argv[1:]
    first, second = json.loads(vouchers)
    print(
        json.dumps(
            {"rest": await rest(url, model, paid, first), "grpc": await grpc(address, model, paid, second)}
        )
    )


asyncio.run(main())
