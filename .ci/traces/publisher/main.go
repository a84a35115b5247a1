// Publishes one message in a trace of its own, and prints the id of the trace.
//
//	publisher UNIBUS COLLECTOR ROOM
//
// UNIBUS and COLLECTOR are addresses. The message names the span that published it, so that its readers can link to it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	unibusv1 "github.com/unibus-rs/unibus/clients/go/unibusv1"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(unibus, collector, room string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(collector))
	if err != nil {
		return err
	}
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "go-publisher"))),
	)
	otel.SetTracerProvider(provider)
	propagator := propagation.TraceContext{}
	otel.SetTextMapPropagator(propagator)

	// adds `traceparent` to the metadata of each call
	traced := grpc.WithStatsHandler(otelgrpc.NewClientHandler())
	connection, err := grpc.NewClient(unibus, grpc.WithTransportCredentials(insecure.NewCredentials()), traced)
	if err != nil {
		return err
	}
	defer connection.Close()

	inner, span := provider.Tracer("publisher").Start(ctx, "publish tea", trace.WithSpanKind(trace.SpanKindProducer))
	headers := map[string]string{}
	propagator.Inject(inner, propagation.MapCarrier(headers))
	message := &unibusv1.PublishRequest{RoomId: room, Payload: []byte("tea"), Headers: headers}
	_, err = unibusv1.NewRoomServiceClient(connection).Publish(inner, message)
	span.End()
	if err != nil {
		return err
	}
	fmt.Println(span.SpanContext().TraceID())
	return provider.Shutdown(ctx)
}
