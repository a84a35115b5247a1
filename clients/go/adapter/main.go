// The adapter drives the client for the conformance suite: JSON lines on standard input and output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

// adapter has what requests open. Only the goroutine that reads requests changes it.
type adapter struct {
	client     *unibus.Client
	publishers map[string]publisher
	subs       map[string]subscription
}

// publisher has a queue of what is done in the order of the requests.
type publisher struct {
	*unibus.Publisher
	queue chan func()
}

type subscription struct {
	cancel, stop context.CancelFunc
	ended        context.Context
}

var (
	ctx        = context.Background()
	errHandler = errors.New("the handler failed")
	output     = make(chan struct{}, 1) // a lock that is given in the order of those who wait
)

func main() {
	a := &adapter{publishers: map[string]publisher{}, subs: map[string]subscription{}}
	for lines := bufio.NewReader(os.Stdin); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		r := object{}
		if err := json.Unmarshal(line, &r); err != nil {
			reply(r, nil, err)
			continue
		}
		a.begin(r)
	}
	if a.client != nil {
		time.AfterFunc(3*time.Second, func() { os.Exit(0) })
		a.client.Close()
	}
}

// begin carries out a request. What takes time goes on beside the next requests.
func (a *adapter) begin(r object) {
	p, s, client := a.publishers[r.text("publisher")], a.subs[r.text("sub")], a.client
	room := func() *unibus.Room { return client.Room(r.text("room")) }
	var err error
	switch r.text("op") {
	case "hello":
		reply(r, object{"language": "go", "runtime": runtime.Version(), "library": "grpc-go " + grpc.Version}, nil)
	case "connect":
		a.client, err = connect(r)
		reply(r, nil, err)
	case "publisher_open":
		opts := add(nil, r.has("window"), unibus.WithWindow(int(r.number("window")), 4<<20))
		p = publisher{queue: make(chan func(), 1<<20)}
		p.Publisher, err = room().Publisher(opts...)
		a.publishers[r.text("publisher")] = p
		go func() {
			for next := range p.queue {
				next()
			}
		}()
		reply(r, nil, err)
	case "publisher_send":
		p.queue <- func() {
			pending, err := p.Send(ctx, r.bytes("payload"), messageOptions(r)...)
			go func() {
				var published unibus.Published
				if err == nil {
					published, err = pending.Wait(ctx)
				}
				reply(r, answer(published), err)
			}()
		}
	case "publisher_flush":
		p.queue <- func() {
			p.Flush(ctx) // the futures have the errors
			reply(r, nil, nil)
		}
	case "subscribe":
		limited, cancel := context.WithCancel(ctx)
		stopping, stop := context.WithCancel(ctx)
		ended, end := context.WithCancel(ctx)
		a.subs[r.text("sub")] = subscription{cancel, stop, ended}
		reply(r, nil, nil)
		go func(room *unibus.Room) {
			defer end()
			line := object{}
			if err := subscribe(limited, room, r, stopping.Done()); err != nil {
				line["error"] = describe(err)
			}
			write(object{"sub": r["sub"], "ended": line})
		}(room())
	case "cancel":
		s.cancel()
		reply(r, nil, nil)
	default:
		go func() {
			var ok object
			var err error
			switch r.text("op") {
			case "publisher_close":
				p.Close(ctx) // the futures have the errors
			case "unsubscribe":
				s.stop()
				<-s.ended.Done()
			case "close":
				err = client.Close()
			default:
				ok, err = call(client, room(), r)
			}
			reply(r, ok, err)
		}()
	}
}

func reply(r object, ok object, err error) {
	switch {
	case err != nil:
		write(object{"id": r["id"], "error": describe(err)})
	case ok == nil:
		write(object{"id": r["id"], "ok": object{}})
	default:
		write(object{"id": r["id"], "ok": ok})
	}
}

func write(line object) {
	output <- struct{}{}
	writeLocked(line)
	<-output
}

func writeLocked(line object) {
	text, _ := json.Marshal(line)
	os.Stdout.Write(append(text, '\n'))
}

func describe(err error) object {
	var e *unibus.Error
	switch {
	case errors.As(err, &e):
		fields := []string{}
		for _, f := range e.Fields {
			fields = append(fields, f.Field)
		}
		class := strings.ReplaceAll(e.Class.String(), " ", "_")
		return object{"code": code.Code(e.Code).String(), "reason": e.Reason, "class": class, "message": e.Error(),
			"outcome_unknown": e.OutcomeUnknown, "cancelled": false, "metadata": e.Metadata, "fields": fields}
	case errors.Is(err, errHandler):
		return object{"code": "HANDLER", "cancelled": false, "message": err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, unibus.ErrClosed):
		return object{"code": "CANCELLED", "cancelled": true, "message": err.Error()}
	}
	return object{"code": "ADAPTER", "message": err.Error()}
}

// describeEvent gives an event as the suite reads it.
func describeEvent(e unibus.Event) object {
	switch e := e.(type) {
	case unibus.Opened:
		return object{"type": "opened", "position": decimal(e.Position), "resumed": e.Resumed}
	case unibus.CaughtUp:
		return object{"type": "caught_up", "position": decimal(e.Position)}
	case unibus.Gap:
		reason := strings.TrimPrefix(e.Reason.String(), "GAP_REASON_")
		return object{"type": "gap", "from": decimal(e.From), "to": decimal(e.To), "reason": reason, "dropped": decimal(e.Dropped)}
	case unibus.Moved:
		return object{"type": "moved", "position": decimal(e.Position)}
	case unibus.Disconnected:
		return object{"type": "disconnected", "error": describe(e.Err), "pause_ms": e.Pause.Milliseconds()}
	}
	return object{"type": "recreated"}
}
