"""Waits for one message of a room, and continues the trace that the message names.

    subscriber.py STUBS UNIBUS COLLECTOR ROOM

STUBS is the folder with the modules of the contract. UNIBUS and COLLECTOR are addresses. Prints `ready` once the
subscription is open.
"""

import importlib
import sys

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

stubs, unibus, collector, room = sys.argv[1:]
sys.path.insert(0, stubs)
messages = importlib.import_module("unibus.v1.room_service_pb2")
service = importlib.import_module("unibus.v1.room_service_pb2_grpc")

provider = TracerProvider(resource=Resource({"service.name": "python-subscriber"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, insecure=True)))
tracer = provider.get_tracer("subscriber")
propagator = TraceContextTextMapPropagator()

with grpc.insecure_channel(unibus) as channel:
    # the subscription is a trace of the subscriber
    with tracer.start_as_current_span("subscribe", kind=trace.SpanKind.CLIENT):
        metadata = {}
        propagator.inject(metadata)
    request = messages.SubscribeRequest(room_id=room)
    frames = service.RoomServiceStub(channel).Subscribe(request, metadata=tuple(metadata.items()), timeout=60)
    for frame in frames:
        if frame.HasField("opened"):
            print("ready", flush=True)
        if frame.HasField("message"):
            # and a message is a part of the trace of its publisher
            publisher = propagator.extract(dict(frame.message.headers))
            with tracer.start_as_current_span("receive tea", context=publisher, kind=trace.SpanKind.CONSUMER):
                break
    frames.cancel()
provider.shutdown()
