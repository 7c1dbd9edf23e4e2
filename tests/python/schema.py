"""The schema of the interoperability tests, compiled for this run from examples/proto."""

import os
import sys
import tempfile

from grpc_tools import protoc

PROTO = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "proto")


def load():
    """The modules test_pb2_grpc, messages_pb2 and empty_pb2."""
    out = tempfile.mkdtemp()
    files = [f"grpc/testing/{name}.proto" for name in ("test", "messages", "empty")]
    flags = [f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *flags, *files]) != 0:
        sys.exit("the schema does not compile")
    # The package `grpc` is grpcio's own: the generated modules join it.
    import grpc

    grpc.__path__.append(os.path.join(out, "grpc"))
    from grpc.testing import empty_pb2, messages_pb2, test_pb2_grpc

    return test_pb2_grpc, messages_pb2, empty_pb2
