// The adapter drives the client for the conformance suite: JSON lines on standard input and output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"

	unibus "github.com/unibus-rs/unibus/clients/go"
)

// adapter has what requests open. Only the goroutine that reads them changes it.
type adapter struct {
	client     *unibus.Client
	publishers map[string]*publisher
	subs       map[string]*subscription
}

type publisher struct {
	*unibus.Publisher
	queue chan func() // what is done in the order of the requests
}

type subscription struct {
	cancel, stop context.CancelFunc
	ended        chan struct{}
}

var (
	output     = make(chan struct{}, 1) // a lock that is given in the order of those who wait
	errHandler = errors.New("the handler failed")
	ctx        = context.Background()
)

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

func reply(r object, ok object, err error) {
	line := object{"id": r["id"], "ok": ok}
	if err != nil {
		line = object{"id": r["id"], "error": describe(err)}
	} else if ok == nil {
		line["ok"] = object{}
	}
	write(line)
}

func main() {
	a := &adapter{publishers: map[string]*publisher{}, subs: map[string]*subscription{}}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
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
		closed := make(chan struct{})
		go func() {
			a.client.Close()
			close(closed)
		}()
		select {
		case <-closed:
		case <-time.After(3 * time.Second):
		}
	}
}

// begin carries out what must happen in the order of the requests, and the rest beside the next requests.
func (a *adapter) begin(r object) {
	p, sub, client := a.publishers[r.text("publisher")], a.subs[r.text("sub")], a.client
	room := func() *unibus.Room { return client.Room(r.text("room")) }
	var err error
	switch op := r.text("op"); op {
	case "connect":
		a.client, err = connect(r)
	case "publisher_open":
		p = &publisher{queue: make(chan func(), 1<<20)}
		window := []unibus.PublisherOption{}
		if n := r.number("window"); n != 0 {
			window = append(window, unibus.WithWindow(int(n), 4<<20))
		}
		if p.Publisher, err = room().Publisher(window...); err == nil {
			a.publishers[r.text("publisher")] = p
			go func() {
				for next := range p.queue {
					next()
				}
			}()
		}
	case "publisher_send":
		p.queue <- func() {
			pending, err := p.Send(ctx, r.bytes("payload"), messageOptions(r)...)
			if err != nil {
				reply(r, nil, err)
				return
			}
			go func() {
				published, err := pending.Wait(ctx)
				reply(r, answer(published), err)
			}()
		}
		return
	case "publisher_flush":
		p.queue <- func() {
			p.Flush(ctx) // the futures have the errors
			reply(r, nil, nil)
		}
		return
	case "publisher_close":
		go func() {
			p.Close(ctx)
			reply(r, nil, nil)
		}()
		return
	case "subscribe":
		sub = &subscription{ended: make(chan struct{})}
		a.subs[r.text("sub")] = sub
		limited, cancel := context.WithCancel(ctx)
		stopping, stop := context.WithCancel(ctx)
		sub.cancel, sub.stop = cancel, stop
		reply(r, nil, nil)
		go func() {
			defer close(sub.ended)
			ended := object{}
			if err := subscribe(limited, room(), r, stopping.Done()); err != nil {
				ended["error"] = describe(err)
			}
			write(object{"sub": r["sub"], "ended": ended})
		}()
		return
	case "unsubscribe":
		sub.stop()
		go func() {
			<-sub.ended
			reply(r, nil, nil)
		}()
		return
	case "cancel":
		sub.cancel()
	default:
		go func() {
			ok, err := call(client, room, r)
			reply(r, ok, err)
		}()
		return
	}
	reply(r, nil, err)
}

func answer(p unibus.Published) object {
	return object{"sequence": decimal(p.Sequence), "duplicate": p.Duplicate, "message_id": p.MessageID}
}

// event gives an event as the suite reads it.
func event(e unibus.Event) object {
	line := object{}
	switch e := e.(type) {
	case unibus.Opened:
		line = object{"type": "opened", "position": decimal(e.Position), "resumed": e.Resumed}
	case unibus.CaughtUp:
		line = object{"type": "caught_up", "position": decimal(e.Position)}
	case unibus.Gap:
		reason := strings.TrimPrefix(e.Reason.String(), "GAP_REASON_")
		line = object{"type": "gap", "from": decimal(e.From), "to": decimal(e.To), "reason": reason, "dropped": decimal(e.Dropped)}
	case unibus.Moved:
		line = object{"type": "moved", "position": decimal(e.Position)}
	case unibus.Recreated:
		line = object{"type": "recreated"}
	case unibus.Disconnected:
		line = object{"type": "disconnected", "error": describe(e.Err), "pause_ms": e.Pause.Milliseconds()}
	}
	return maps.Clone(line)
}
