package unibus

import "testing"

// U5: Dial refuses what would send a token over a network in plaintext.
func TestDial(t *testing.T) {
	token, allow := WithToken("t"), WithPlaintextToken()
	tests := []struct {
		target string
		opts   []Option
		ok     bool
	}{
		{"https://unibus.example.com", []Option{token}, true},
		{"https://[2001:db8::1]:50051", []Option{token}, true},
		{"http://unibus.example.com:50051", nil, true},
		{"http://unibus.example.com:50051", []Option{token}, false},
		{"http://unibus.example.com:50051", []Option{token, allow}, false},
		{"http://192.0.2.1:50051", []Option{token, allow}, false},
		{"http://127.0.0.1:50051", []Option{token}, false},
		{"http://127.0.0.1:50051", []Option{token, allow}, true},
		{"http://[::1]:50051", []Option{token, allow}, true},
		{"http://localhost:50051", []Option{allow, token}, true},
		{"http://localhost.example.com:50051", []Option{allow, token}, false},
		{"127.0.0.1:50051", nil, false},
		{"ftp://127.0.0.1:50051", nil, false},
		{"https://", nil, false},
		{"https://:50051", nil, false},
		{"https://unibus.example.com", []Option{WithToken("")}, false},
		{"https://unibus.example.com", []Option{WithToken("t\n")}, false},
		{"https://unibus.example.com", []Option{WithAttemptTimeout(0)}, false},
		{"https://unibus.example.com/path", nil, false},
		{"https://unibus.example.com", []Option{WithCAFile("testdata/none.pem")}, false},
		{"https://unibus.example.com", []Option{WithCAFile("go.mod")}, false},
		{"https://unibus.example.com", []Option{WithCertificateFiles("go.mod", "go.mod")}, false},
	}
	for _, test := range tests {
		c, err := Dial(test.target, test.opts...)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.target, err)
		}
		if err == nil {
			c.Close()
		}
	}
}
