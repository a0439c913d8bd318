# SPDX-License-Identifier: Apache-2.0
"""A broker whose calls the real client's own code authenticates (that of its push worker):

    python -m clients.signed_broker '["secret", ...]'

Prints its address as the first line. Hands out the activations that stdin brings, one hexadecimal
line each, and prints a line "ID STATUS" for each report. Ends with stdin.
"""

import json
import queue
import sys
from concurrent import futures

import grpc
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb
from taskbroker_client.worker.client import RequestSignatureServerInterceptor


tasks = queue.Queue()


def get_task(request, context):
    try:
        return pb.GetTaskResponse(task=tasks.get(timeout=0.1))
    except queue.Empty:
        context.abort(grpc.StatusCode.NOT_FOUND, "No pending activation")


def set_task_status(request, context):
    print(request.id, pb.TaskActivationStatus.Name(request.status), flush=True)
    return pb.SetTaskStatusResponse()


class Checked(grpc.GenericRpcHandler):
    """The client's interceptor, entered by hand: it tells what it found while it reads the request to the
    handler by the thread, and the grpcio that is installed here reads in another one."""

    METHODS = {
        "GetTask": grpc.unary_unary_rpc_method_handler(
            get_task, pb.GetTaskRequest.FromString, pb.GetTaskResponse.SerializeToString),
        "SetTaskStatus": grpc.unary_unary_rpc_method_handler(
            set_task_status, pb.SetTaskStatusRequest.FromString, pb.SetTaskStatusResponse.SerializeToString)}

    def __init__(self, secrets):
        self._check = RequestSignatureServerInterceptor(secrets)

    def service(self, details):
        plain = self.METHODS.get(details.method.removeprefix("/sentry_protos.taskbroker.v1.ConsumerService/"))
        if plain is None:
            return None
        checked = self._check.intercept_service(lambda _: plain, details)

        def run(body, context):
            return checked.unary_unary(checked.request_deserializer(body), context)

        return grpc.unary_unary_rpc_method_handler(run, None, plain.response_serializer)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Checked(json.loads(sys.argv[1]))])
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    for line in sys.stdin:
        tasks.put(pb.TaskActivation.FromString(bytes.fromhex(line.strip())))
    server.stop(0)


if __name__ == "__main__":
    main()
