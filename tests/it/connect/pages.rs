//! Web pages of other origins call in JSON.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Issuer, Nats,
    connect::{Connect, JsonStream, answer, envelope, path, sent},
    create_room,
};

const PAGE: &str = "https://app.example.com";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_calls_in_json() {
    // Goal: `fetch` needs nothing else. Method: the preflights that a browser sends before each kind of call; then the calls, a
    // refused one included; each answer may be read by the page. A page of another origin may read none.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.cors.origins = vec![PAGE.into()]).await;
    create_room(&issuer.client(&unibus, "ann").await, "lobby").await;
    let stranger = Connect::to(unibus.address());
    let http = stranger.with_token(&issuer.token("ann"));
    let fields = "authorization,connect-protocol-version,connect-timeout-ms,content-type";
    for (method, verb) in [("GetRoom", "POST"), ("GetRoom", "GET"), ("Subscribe", "POST")] {
        let preflight = stranger.request(Method::OPTIONS, &path(method)).header("origin", PAGE);
        let preflight = preflight.header("access-control-request-method", verb);
        let answer = sent(preflight.header("access-control-request-headers", fields)).await;
        assert_eq!(answer.status(), 200, "{method} {verb}");
        let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase();
        assert!(fields.split(',').all(|field| allowed.contains(field)), "{allowed}");
        let methods = answer.headers()["access-control-allow-methods"].to_str().unwrap();
        assert!(methods.contains(verb), "{methods}");
    }
    let room = json!({ "roomId": "lobby" }).to_string();
    for (origin, is_allowed) in [(PAGE, true), ("https://evil.example.com", false)] {
        let get = format!("{}?encoding=json&message=%7B%22roomId%22%3A%22lobby%22%7D", path("GetRoom"));
        for (request, status) in [
            (http.post("GetRoom", "application/json", room.clone()), 200),
            (http.post("GetRoom", "application/json", "{}"), 400),
            (stranger.post("GetRoom", "application/json", room.clone()), 401),
            (http.request(Method::GET, &get), 200),
        ] {
            let response = sent(request.header("origin", origin)).await;
            assert_eq!(response.status(), status);
            let allowed = response.headers().get("access-control-allow-origin");
            assert_eq!(allowed.map(|origin| origin.to_str().unwrap()), is_allowed.then_some(origin), "{status}");
            assert_eq!(response.headers().contains_key("access-control-expose-headers"), is_allowed);
            let _ = answer(response).await;
        }
        let request = http.post("Subscribe", "application/connect+json", envelope(0, room.as_bytes()));
        let mut stream = JsonStream::read(sent(request.header("origin", origin)).await);
        assert_eq!(stream.headers().contains_key("access-control-allow-origin"), is_allowed);
        stream.frame("opened").await;
    }
}
