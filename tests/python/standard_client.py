"""grpcio's clients of the health and reflection services: standard_client.py HOST:PORT.

Prints `watching`, and ends well once the server, going away, has told so.
"""

import sys

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "grpc.testing.TestService"
States = health_pb2.HealthCheckResponse

channel = grpc.insecure_channel(sys.argv[1])
health = health_pb2_grpc.HealthStub(channel)
for name in ("", SERVICE):
    answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
    assert answer.status == States.SERVING, answer
try:
    health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=60)
    sys.exit("an unknown service is healthy")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error

database = ProtoReflectionDescriptorDatabase(channel)
assert SERVICE in database.get_services()
pool = descriptor_pool.DescriptorPool(database)
methods = pool.FindServiceByName(SERVICE).methods_by_name
assert "FullDuplexCall" in methods and methods["UnaryCall"].input_type.name == "SimpleRequest"

unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=60)
assert next(unknown).status == States.SERVICE_UNKNOWN
unknown.cancel()
watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
assert next(watch).status == States.SERVING
print("watching", flush=True)
assert next(watch).status == States.NOT_SERVING
try:
    for state in watch:
        sys.exit(f"the watch goes on with {state}")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
