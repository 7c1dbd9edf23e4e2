"""grpcio as the client of gRPC's interoperability cases: interop_client.py HOST:PORT [CA.PEM] CASE...

Prints `ok CASE` for each; the first that fails ends the program with its traceback.
"""

import sys
import time

import grpc

import schema

rpc, messages, empty = schema.load()
INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


ADDR, *CASES = sys.argv[1:]
ROOTS = open(CASES.pop(0), "rb").read() if CASES[0].endswith(".pem") else None


def open_channel():
    if ROOTS is None:
        return grpc.insecure_channel(ADDR)
    return grpc.secure_channel(ADDR, grpc.ssl_channel_credentials(ROOTS))


def payload(size):
    return messages.Payload(body=bytes(size))


def large(**more):
    return messages.SimpleRequest(response_size=314159, payload=payload(271828), **more)


def output(*sizes, **more):
    parameters = [messages.ResponseParameters(size=size) for size in sizes]
    return messages.StreamingOutputCallRequest(response_parameters=parameters, **more)


def code_of(call, *args, **more):
    try:
        result = call(*args, **more)
        if hasattr(result, "__iter__"):
            list(result)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def empty_unary(stub, _channel):
    assert stub.EmptyCall(empty.Empty(), timeout=60) == empty.Empty()


def large_unary(stub, _channel):
    assert stub.UnaryCall(large(), timeout=60).payload.body == bytes(314159)


def client_compressed_unary(stub, _channel):
    expect = messages.BoolValue(value=True)
    code, _ = code_of(stub.UnaryCall, large(expect_compressed=expect), timeout=60)
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    answer = stub.UnaryCall(
        large(expect_compressed=expect), compression=grpc.Compression.Gzip, timeout=60
    )
    assert len(answer.payload.body) == 314159
    plain = messages.BoolValue(value=False)
    answer = stub.UnaryCall(large(expect_compressed=plain), timeout=60)
    assert len(answer.payload.body) == 314159


def server_compressed_unary(stub, _channel):
    for compressed in (True, False):
        request = large(response_compressed=messages.BoolValue(value=compressed))
        assert len(stub.UnaryCall(request, timeout=60).payload.body) == 314159


def client_streaming(stub, _channel):
    sizes = (27182, 8, 1828, 45904)
    requests = (messages.StreamingInputCallRequest(payload=payload(size)) for size in sizes)
    answer = stub.StreamingInputCall(requests, timeout=60)
    assert answer.aggregated_payload_size == 74922


def client_compressed_streaming(stub, _channel):
    expect = messages.BoolValue(value=True)
    request = messages.StreamingInputCallRequest(payload=payload(27182), expect_compressed=expect)
    code, _ = code_of(stub.StreamingInputCall, iter([request]), timeout=60)
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    answer = stub.StreamingInputCall(
        iter([request]), compression=grpc.Compression.Gzip, timeout=60
    )
    assert answer.aggregated_payload_size == 27182


def server_streaming(stub, _channel):
    sizes = [31415, 9, 2653, 58979]
    answers = stub.StreamingOutputCall(output(*sizes), timeout=60)
    assert [len(answer.payload.body) for answer in answers] == sizes


def server_compressed_streaming(stub, _channel):
    request = messages.StreamingOutputCallRequest(
        response_parameters=[
            messages.ResponseParameters(size=31415, compressed=messages.BoolValue(value=True)),
            messages.ResponseParameters(size=92653, compressed=messages.BoolValue(value=False)),
        ]
    )
    answers = stub.StreamingOutputCall(request, timeout=60)
    assert [len(answer.payload.body) for answer in answers] == [31415, 92653]


class Pipe:
    """Requests that are sent one by one."""

    def __init__(self):
        import queue

        self.queue = queue.Queue()

    def __iter__(self):
        return iter(self.queue.get, None)


def ping_pong(stub, _channel):
    pipe = Pipe()
    answers = stub.FullDuplexCall(iter(pipe), timeout=60)
    for asked, size in ((27182, 31415), (8, 9), (1828, 2653), (45904, 58979)):
        pipe.queue.put(output(size, payload=payload(asked)))
        assert len(next(answers).payload.body) == size
    pipe.queue.put(None)
    assert list(answers) == []


def empty_stream(stub, _channel):
    assert list(stub.FullDuplexCall(iter(()), timeout=60)) == []


def cancel_after_begin(stub, _channel):
    pipe = Pipe()
    call = stub.StreamingInputCall.future(iter(pipe), timeout=60)
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    pipe.queue.put(None)


def cancel_after_first_response(stub, _channel):
    pipe = Pipe()
    pipe.queue.put(output(31415, payload=payload(27182)))
    answers = stub.FullDuplexCall(iter(pipe), timeout=60)
    next(answers)
    answers.cancel()
    assert answers.code() == grpc.StatusCode.CANCELLED
    pipe.queue.put(None)


def timeout_on_sleeping_server(stub, _channel):
    pipe = Pipe()
    pipe.queue.put(messages.StreamingOutputCallRequest(payload=payload(27182)))
    code, _ = code_of(stub.FullDuplexCall, iter(pipe), timeout=0.001)
    pipe.queue.put(None)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code


def check_metadata(call):
    assert INITIAL in [(key, value) for key, value in call.initial_metadata()]
    assert TRAILING in [(key, value) for key, value in call.trailing_metadata()]


def custom_metadata(stub, _channel):
    _, call = stub.UnaryCall.with_call(large(), metadata=(INITIAL, TRAILING), timeout=60)
    check_metadata(call)
    request = output(314159, payload=payload(271828))
    call = stub.FullDuplexCall(iter([request]), metadata=(INITIAL, TRAILING), timeout=60)
    assert len(list(call)) == 1
    check_metadata(call)


def status_code_and_message(stub, _channel):
    status = messages.EchoStatus(code=2, message="test status message")
    expected = (grpc.StatusCode.UNKNOWN, "test status message")
    request = messages.SimpleRequest(response_status=status)
    assert code_of(stub.UnaryCall, request, timeout=60) == expected
    request = messages.StreamingOutputCallRequest(response_status=status)
    assert code_of(stub.FullDuplexCall, iter([request]), timeout=60) == expected


def special_status_message(stub, _channel):
    status = messages.EchoStatus(code=2, message=SPECIAL)
    request = messages.SimpleRequest(response_status=status)
    found = code_of(stub.UnaryCall, request, timeout=60)
    assert found == (grpc.StatusCode.UNKNOWN, SPECIAL), found


def unimplemented_method(stub, _channel):
    code, _ = code_of(stub.UnimplementedCall, empty.Empty(), timeout=60)
    assert code == grpc.StatusCode.UNIMPLEMENTED, code


def unimplemented_service(_stub, channel):
    stub = rpc.UnimplementedServiceStub(channel)
    code, _ = code_of(stub.UnimplementedCall, empty.Empty(), timeout=60)
    assert code == grpc.StatusCode.UNIMPLEMENTED, code


def rpc_soak(stub, channel):
    for _ in range(50):
        large_unary(stub, channel)


def channel_soak(stub, channel):
    for _ in range(20):
        with open_channel() as fresh:
            large_unary(rpc.TestServiceStub(fresh), fresh)


def long_lived_channel(stub, channel):
    large_unary(stub, channel)
    time.sleep(0.2)
    large_unary(stub, channel)


with open_channel() as channel:
    stub = rpc.TestServiceStub(channel)
    for case in CASES:
        globals()[case](stub, channel)
        print("ok", case, flush=True)
