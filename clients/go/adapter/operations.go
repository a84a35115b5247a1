package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	unibus "github.com/unibus-rs/unibus/clients/go"
	"github.com/unibus-rs/unibus/clients/go/examples/encryption"
	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

// object is a JSON object. An absent field is the zero value.
type object map[string]any

func (o object) has(name string) bool    { return o[name] != nil }
func (o object) flag(name string) bool   { b, _ := o[name].(bool); return b }
func (o object) text(name string) string { s, _ := o[name].(string); return s }
func (o object) bytes(name string) []byte {
	b, _ := base64.StdEncoding.DecodeString(o.text(name))
	return b
}
func (o object) time(name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, o.text(name))
	return t
}
func (o object) milliseconds(name string) time.Duration {
	return time.Duration(o.number(name)) * time.Millisecond
}
func (o object) number(name string) uint64 {
	n, _ := strconv.ParseUint(fmt.Sprint(o[name]), 10, 64)
	return n
}
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func add[O any](opts []O, given bool, opt O) []O {
	if given {
		opts = append(opts, opt)
	}
	return opts
}

func connect(r object) (*unibus.Client, error) {
	read := func(context.Context) (string, error) {
		token, err := os.ReadFile(r.text("token_file"))
		return strings.TrimSpace(string(token)), err
	}
	var opts []unibus.Option
	opts = add(opts, r.has("ca"), unibus.WithCAFile(r.text("ca")))
	opts = add(opts, r.has("cert"), unibus.WithCertificateFiles(r.text("cert"), r.text("key")))
	opts = add(opts, r.has("token"), unibus.WithToken(r.text("token")))
	opts = add(opts, r.has("token_file"), unibus.WithTokenFunc(read))
	opts = add(opts, r.flag("plaintext_token"), unibus.WithPlaintextToken())
	opts = add(opts, r.has("attempt_ms"), unibus.WithAttemptTimeout(r.milliseconds("attempt_ms")))
	opts = add(opts, r.has("total_ms"), unibus.WithCallTimeout(r.milliseconds("total_ms")))
	return unibus.Dial(r.text("address"), opts...)
}

func place(r object) unibus.Start {
	start, _ := r["start"].(map[string]any)
	switch o := object(start); {
	case o.has("all"):
		return unibus.FromAll()
	case o.has("new"):
		return unibus.FromNew()
	case o.has("after_sequence"):
		return unibus.FromAfter(o.number("after_sequence"))
	case o.has("after_cursor"):
		return unibus.FromAfterCursor(o.text("after_cursor"))
	case o.has("since"):
		return unibus.FromTime(o.time("since"))
	case o.has("last"):
		return unibus.FromLast(o.number("last"))
	}
	return unibus.Start{}
}

func messageOptions(r object) (opts []unibus.PublishOption) {
	headers := map[string]string{}
	if given, ok := r["headers"].(map[string]any); ok {
		for name := range given {
			headers[name] = object(given).text(name)
		}
	}
	opts = add(opts, true, unibus.WithHeaders(headers))
	opts = add(opts, r.has("message_id"), unibus.WithMessageID(r.text("message_id")))
	return add(opts, r.has("expected_last_sequence"), unibus.WithExpectedLastSequence(r.number("expected_last_sequence")))
}

func answer(p unibus.Published) object {
	return object{"sequence": decimal(p.Sequence), "duplicate": p.Duplicate, "message_id": p.MessageID}
}

func subscribe(ctx context.Context, room *unibus.Room, r object, stop <-chan struct{}) error {
	events := func(e unibus.Event) { write(object{"sub": r["sub"], "event": describeEvent(e)}) }
	opts := []unibus.SubscribeOption{unibus.WithStart(place(r)), unibus.WithStop(stop), unibus.WithEvents(events)}
	opts = add(opts, r.has("concurrency"), unibus.WithConcurrency(int(r.number("concurrency"))))
	opts = add(opts, r.has("prefetch"), unibus.WithReadAhead(int(r.number("prefetch")), 4<<20))
	opts = add(opts, r.flag("until_caught_up"), unibus.UntilCaughtUp())
	handler := func(_ context.Context, m *unibus.Message) error {
		output <- struct{}{} // first of all, so that the lines show in which order handlers begin
		writeLocked(object{"sub": r["sub"], "message": object{"sequence": decimal(m.Sequence), "payload": m.Payload, "headers": m.Headers,
			"message_id": m.MessageID, "sender": m.Sender, "cursor": m.Cursor, "published_at": m.PublishedAt.Format(time.RFC3339Nano)}})
		<-output
		time.Sleep(r.milliseconds("handler_ms"))
		if r.has("fail_at") && m.Sequence == r.number("fail_at") {
			return errHandler
		}
		write(object{"sub": r["sub"], "done": decimal(m.Sequence)})
		return nil
	}
	if !r.flag("iterator") {
		return room.Subscribe(ctx, r.text("subscriber"), handler, opts...)
	}
	for m, err := range room.Messages(ctx, r.text("subscriber"), opts...) {
		if err == nil {
			err = handler(ctx, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func history(room *unibus.Room, r object) (object, error) {
	opts := []unibus.HistoryOption{unibus.After(r.number("after_sequence")), unibus.Before(r.number("before_sequence")),
		unibus.Since(r.time("start_time")), unibus.Until(r.time("end_time")), unibus.WithPageSize(int(r.number("page_size")))}
	backwards := r.text("direction") == "backwards"
	opts = add(opts, backwards, unibus.Backwards())
	count, first, last, ordered, digest := uint64(0), uint64(0), uint64(0), true, sha256.New()
	for m, err := range room.History(ctx, opts...) {
		if err != nil {
			return nil, err
		}
		if count == 0 {
			first = m.Sequence
		} else {
			ordered = ordered && m.Sequence != last && m.Sequence < last == backwards
		}
		last = m.Sequence
		fmt.Fprintf(digest, "%d\n%s", m.Sequence, m.Payload)
		if count++; count == r.number("max") {
			break
		}
	}
	return object{"count": decimal(count), "first": decimal(first), "last": decimal(last), "ordered": ordered,
		"digest": hex.EncodeToString(digest.Sum(nil))}, nil
}

// list gives a list as a field.
func list[T any](name string, elements iter.Seq2[T, error], one func(T) object) (object, error) {
	all := []object{}
	for element, err := range elements {
		if err != nil {
			return nil, err
		}
		all = append(all, one(element))
	}
	return object{name: all}, nil
}

func call(client *unibus.Client, room *unibus.Room, r object) (object, error) {
	switch r.text("op") {
	case "create_room":
		var opts []unibus.RoomOption
		opts = add(opts, !r.flag("persist"), unibus.Ephemeral())
		opts = add(opts, r.has("dedupe_window_ms"), unibus.WithDedupeWindow(r.milliseconds("dedupe_window_ms")))
		retention := unibus.Retention{MaxMessages: int64(r.number("max_messages")), MaxAge: r.milliseconds("max_age_ms")}
		opts = add(opts, retention != unibus.Retention{}, unibus.WithRetention(retention))
		made, err := client.CreateRoom(ctx, r.text("room"), opts...)
		if err != nil {
			return nil, err
		}
		return object{"room": made.ID()}, nil
	case "get_room":
		info, err := room.Info(ctx)
		if err != nil || info.State == nil {
			return object{"persist": false}, err
		}
		return object{"persist": info.Persist, "dedupe_window_ms": info.DedupeWindow.Milliseconds(), "messages": decimal(info.State.Messages),
			"first_sequence": decimal(info.State.FirstSequence), "last_sequence": decimal(info.State.LastSequence)}, nil
	case "delete_room":
		return nil, room.Delete(ctx)
	case "purge_room":
		if r.has("up_to") {
			return nil, room.PurgeUpTo(ctx, r.number("up_to"))
		}
		return nil, room.Purge(ctx)
	case "delete_message":
		return nil, room.DeleteMessage(ctx, r.number("sequence"))
	case "publish":
		limited, cancel := context.WithCancel(ctx)
		if r.has("timeout_ms") {
			limited, cancel = context.WithTimeout(ctx, r.milliseconds("timeout_ms"))
		}
		defer cancel()
		published, err := room.Publish(limited, r.bytes("payload"), messageOptions(r)...)
		return answer(published), err
	case "history":
		return history(room, r)
	case "add_member":
		role := unibus.Role(unibusv1.Role_value["ROLE_"+strings.ToUpper(r.text("role"))])
		return nil, room.AddMember(ctx, unibus.Member{ID: r.text("member"), Role: role})
	case "remove_member":
		return nil, room.RemoveMember(ctx, r.text("member"))
	case "list_members":
		return list("members", room.Members(ctx), func(m unibus.Member) object {
			return object{"member": m.ID, "role": strings.ToLower(strings.TrimPrefix(m.Role.String(), "ROLE_"))}
		})
	case "list_subscribers":
		return list("subscribers", room.Subscribers(ctx), func(s unibus.Subscriber) object {
			return object{"subscriber": s.Name, "position": decimal(s.Position), "lag": decimal(s.Lag), "open": s.Open}
		})
	case "seek":
		position, err := room.SeekSubscriber(ctx, r.text("subscriber"), place(r))
		return object{"position": decimal(position)}, err
	case "seal":
		sealed, err := encryption.Seal(r.bytes("key"), r.text("room"), r.text("sender"), r.bytes("payload"))
		return object{"sealed": sealed}, err
	case "open":
		payload, err := encryption.Open(r.bytes("key"), r.text("room"), r.text("sender"), r.bytes("sealed"))
		return object{"payload": payload}, err
	}
	return nil, fmt.Errorf("unknown op %q", r.text("op"))
}
