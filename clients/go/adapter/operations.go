package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	unibus "github.com/unibus-rs/unibus/clients/go"
	"github.com/unibus-rs/unibus/clients/go/examples/encryption"
	"github.com/unibus-rs/unibus/clients/go/unibusv1"
)

var (
	ctx                       = context.Background()
	client                    *unibus.Client
	publishers, subscriptions sync.Map // by name; of a subscription what its operations do
	errHandler                = errors.New("the handler failed")
)

func (r request) publisher() *unibus.Publisher {
	p, _ := publishers.Load(r.text("publisher"))
	return p.(*unibus.Publisher)
}

// operations by their names. Each replies once.
var operations = map[string]func(r request){
	"hello": func(r request) {
		r.reply(object{"language": "go", "runtime": runtime.Version(), "library": "grpc-go " + grpc.Version}, nil)
	},
	"connect":        connect,
	"close":          func(r request) { r.reply(object{}, client.Close()) },
	"create_room":    createRoom,
	"get_room":       getRoom,
	"delete_room":    func(r request) { r.reply(object{}, r.room().Delete(ctx)) },
	"delete_message": func(r request) { r.reply(object{}, r.room().DeleteMessage(ctx, r.number("sequence"))) },
	"purge_room": func(r request) {
		if r.has("up_to") {
			r.reply(object{}, r.room().PurgeUpTo(ctx, r.number("up_to")))
		} else {
			r.reply(object{}, r.room().Purge(ctx))
		}
	},
	"publish": func(r request) {
		limited, cancel := context.WithTimeout(ctx, cmp.Or(r.milliseconds("timeout_ms"), time.Hour))
		defer cancel()
		r.published(r.room().Publish(limited, field[[]byte](r, "payload"), r.messageOptions()...))
	},
	"publisher_open": func(r request) {
		p, err := r.room().Publisher(add(nil, r.has("window"), unibus.WithWindow(int(r.number("window")), 4<<20))...)
		publishers.Store(r.text("publisher"), p)
		r.reply(object{}, err)
	},
	"publisher_send": func(r request) {
		pending, err := r.publisher().Send(ctx, field[[]byte](r, "payload"), r.messageOptions()...)
		if err != nil {
			r.reply(object{}, err)
		} else {
			go func() { r.published(pending.Wait(ctx)) }()
		}
	},
	"publisher_flush": func(r request) { r.publisher().Flush(ctx); r.reply(object{}, nil) }, // the futures have the errors
	"publisher_close": func(r request) { r.publisher().Close(ctx); r.reply(object{}, nil) },
	"subscribe":       subscribe,
	"cancel":          end,
	"unsubscribe":     end,
	"history":         history,
	"add_member": func(r request) {
		role := unibus.Role(unibusv1.Role_value["ROLE_"+strings.ToUpper(r.text("role"))])
		r.reply(object{}, r.room().AddMember(ctx, unibus.Member{ID: r.text("member"), Role: role}))
	},
	"remove_member": func(r request) { r.reply(object{}, r.room().RemoveMember(ctx, r.text("member"))) },
	"list_members": func(r request) {
		r.reply(list("members", r.room().Members(ctx), func(m unibus.Member) object {
			return object{"member": m.ID, "role": strings.ToLower(strings.TrimPrefix(m.Role.String(), "ROLE_"))}
		}))
	},
	"list_subscribers": func(r request) {
		r.reply(list("subscribers", r.room().Subscribers(ctx), func(s unibus.Subscriber) object {
			return object{"subscriber": s.Name, "position": decimal(s.Position), "lag": decimal(s.Lag), "open": s.Open}
		}))
	},
	"seek": func(r request) {
		position, err := r.room().SeekSubscriber(ctx, r.text("subscriber"), r.start())
		r.reply(object{"position": decimal(position)}, err)
	},
	"seal": func(r request) {
		sealed, err := encryption.Seal(field[[]byte](r, "key"), r.text("room"), r.text("sender"), field[[]byte](r, "payload"))
		r.reply(object{"sealed": sealed}, err)
	},
	"open": func(r request) {
		payload, err := encryption.Open(field[[]byte](r, "key"), r.text("room"), r.text("sender"), field[[]byte](r, "sealed"))
		r.reply(object{"payload": payload}, err)
	},
}

// add adds an option if the request has its field.
func add[O any](opts []O, given bool, opt O) []O {
	if given {
		opts = append(opts, opt)
	}
	return opts
}

func connect(r request) {
	read := func(context.Context) (string, error) {
		token, err := os.ReadFile(r.text("token_file"))
		return strings.TrimSpace(string(token)), err
	}
	var err error
	opts := add(nil, r.has("ca"), unibus.WithCAFile(r.text("ca")))
	opts = add(opts, r.has("cert"), unibus.WithCertificateFiles(r.text("cert"), r.text("key")))
	opts = add(opts, r.has("token"), unibus.WithToken(r.text("token")))
	opts = add(opts, r.has("token_file"), unibus.WithTokenFunc(read))
	opts = add(opts, field[bool](r, "plaintext_token"), unibus.WithPlaintextToken())
	opts = add(opts, r.has("attempt_ms"), unibus.WithAttemptTimeout(r.milliseconds("attempt_ms")))
	opts = add(opts, r.has("total_ms"), unibus.WithCallTimeout(r.milliseconds("total_ms")))
	client, err = unibus.Dial(r.text("address"), opts...)
	r.reply(object{}, err)
}

func createRoom(r request) {
	opts := add(nil, !field[bool](r, "persist"), unibus.Ephemeral())
	opts = add(opts, r.has("dedupe_window_ms"), unibus.WithDedupeWindow(r.milliseconds("dedupe_window_ms")))
	retention := unibus.Retention{MaxMessages: int64(r.number("max_messages")), MaxAge: r.milliseconds("max_age_ms")}
	opts = add(opts, retention != unibus.Retention{}, unibus.WithRetention(retention))
	room, err := client.CreateRoom(ctx, r.text("room"), opts...)
	if err != nil {
		r.reply(nil, err)
	} else {
		r.reply(object{"room": room.ID()}, nil)
	}
}

func getRoom(r request) {
	info, err := r.room().Info(ctx)
	if err != nil || info.State == nil {
		r.reply(object{"persist": false}, err)
		return
	}
	r.reply(object{"persist": info.Persist, "dedupe_window_ms": info.DedupeWindow.Milliseconds(), "messages": decimal(info.State.Messages),
		"first_sequence": decimal(info.State.FirstSequence), "last_sequence": decimal(info.State.LastSequence)}, nil)
}

func (r request) messageOptions() []unibus.PublishOption {
	headers := unibus.WithHeaders(field[map[string]string](r, "headers"))
	opts := []unibus.PublishOption{headers, unibus.WithMessageID(r.text("message_id"))}
	return add(opts, r.has("expected_last_sequence"), unibus.WithExpectedLastSequence(r.number("expected_last_sequence")))
}

func (r request) published(p unibus.Published, err error) {
	r.reply(object{"sequence": decimal(p.Sequence), "duplicate": p.Duplicate, "message_id": p.MessageID}, err)
}

func (r request) start() unibus.Start {
	switch s := field[request](r, "start"); {
	case s.has("all"):
		return unibus.FromAll()
	case s.has("new"):
		return unibus.FromNew()
	case s.has("after_sequence"):
		return unibus.FromAfter(s.number("after_sequence"))
	case s.has("after_cursor"):
		return unibus.FromAfterCursor(s.text("after_cursor"))
	case s.has("since"):
		return unibus.FromTime(field[time.Time](s, "since"))
	case s.has("last"):
		return unibus.FromLast(s.number("last"))
	}
	return unibus.Start{}
}

func subscribe(r request) {
	limited, cancel := context.WithCancel(ctx)
	stopping, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	defer close(ended)
	subscriptions.Store(r.text("sub")+" cancel", func() { cancel() })
	subscriptions.Store(r.text("sub")+" unsubscribe", func() { stop(); <-ended })
	r.reply(object{}, nil)
	opts := []unibus.SubscribeOption{unibus.WithStart(r.start()), unibus.WithStop(stopping.Done()), unibus.WithEvents(func(e unibus.Event) {
		lines <- object{"sub": r["sub"], "event": describeEvent(e)}
	})}
	opts = add(opts, r.has("concurrency"), unibus.WithConcurrency(int(r.number("concurrency"))))
	opts = add(opts, r.has("prefetch"), unibus.WithReadAhead(int(r.number("prefetch")), 4<<20))
	opts = add(opts, field[bool](r, "until_caught_up"), unibus.UntilCaughtUp())
	var err error
	if field[bool](r, "iterator") {
		for m, failed := range r.room().Messages(limited, r.text("subscriber"), opts...) {
			if err = failed; err == nil {
				err = r.handle(limited, m)
			}
			if err != nil {
				break
			}
		}
	} else {
		err = r.room().Subscribe(limited, r.text("subscriber"), r.handle, opts...)
	}
	line := object{}
	if err != nil {
		line["error"] = describe(err)
	}
	lines <- object{"sub": r["sub"], "ended": line}
}

// end ends a subscription in one of two ways.
func end(r request) {
	way, _ := subscriptions.Load(r.text("sub") + " " + r.text("op"))
	way.(func())()
	r.reply(object{}, nil)
}

// message is encoded when it is written, so that the lines show in which order handlers begin.
type message unibus.Message

func (m *message) MarshalJSON() ([]byte, error) {
	return json.Marshal(object{"sequence": decimal(m.Sequence), "payload": m.Payload, "headers": m.Headers, "message_id": m.MessageID,
		"sender": m.Sender, "cursor": m.Cursor, "published_at": m.PublishedAt})
}

func (r request) handle(_ context.Context, m *unibus.Message) error {
	lines <- object{"sub": r["sub"], "message": (*message)(m)}
	time.Sleep(r.milliseconds("handler_ms"))
	if r.has("fail_at") && m.Sequence == r.number("fail_at") {
		return errHandler
	}
	lines <- object{"sub": r["sub"], "done": decimal(m.Sequence)}
	return nil
}

func history(r request) {
	backwards := r.text("direction") == "backwards"
	opts := []unibus.HistoryOption{unibus.After(r.number("after_sequence")), unibus.Before(r.number("before_sequence")),
		unibus.Since(field[time.Time](r, "start_time")), unibus.Until(field[time.Time](r, "end_time")),
		unibus.WithPageSize(int(r.number("page_size")))}
	count, first, last, ordered, digest := uint64(0), uint64(0), uint64(0), true, sha256.New()
	for m, err := range r.room().History(ctx, add(opts, backwards, unibus.Backwards())...) {
		if err != nil {
			r.reply(object{}, err)
			return
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
	r.reply(object{"count": decimal(count), "first": decimal(first), "last": decimal(last), "ordered": ordered,
		"digest": fmt.Sprintf("%x", digest.Sum(nil))}, nil)
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
