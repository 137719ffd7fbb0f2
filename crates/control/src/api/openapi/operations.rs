//! Every method of every path.

use serde_json::{Value, json};

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    Token,
    Secret,
    Anyone,
}

impl Permit {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Token => "With an API token",
            Self::Secret => "With the TURN key's secret",
            Self::Anyone => "Open to everybody",
        }
    }
}

/// What a success says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// A schema's name.
    Json(&'static str),
    /// A schema's name, and another content type that may be asked for.
    JsonOr(&'static str, &'static str),
    /// A content type.
    Other(&'static str),
    /// A description.
    Nothing(&'static str),
}

/// One method of one path.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) permit: Permit,
    /// A schema's name.
    pub(super) body: Option<&'static str>,
    pub(super) answers: Vec<(u16, Answer)>,
    query: &'static [Parameter],
    more_failures: &'static [u16],
    once: bool,
}

/// A parameter of the query: its name, type, and what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const PAGES: &[Parameter] = &[
    ("per_page", "integer", "Rows on a page, 1 to 1000"),
    ("cursor", "integer", "`result_info.cursor` of the page before"),
];
const AUDIT: &[Parameter] = &[
    ("per_page", "integer", "Rows on a page, 1 to 1000"),
    ("cursor", "integer", "`result_info.cursor` of the page before"),
    ("action", "string", "One action, such as turn_key.create, or all that begin so: turn_key"),
    ("target", "string", "About this id only"),
    ("since", "date-time", "Not older than this"),
];
const DELIVERIES_QUERY: &[Parameter] = &[
    ("per_page", "integer", "Rows on a page, 1 to 1000"),
    ("cursor", "integer", "`result_info.cursor` of the page before"),
    ("state", "string", "`dead`: only what was given up"),
];
const USAGE: &[Parameter] = &[
    ("since", "date-time", "Relayed not earlier than this"),
    ("until", "date-time", "Relayed before this"),
    (
        "group_by",
        "string",
        "Dimensions, with commas between them, such as `date,customIdentifier`; one row if there is none",
    ),
    ("custom_identifier", "string", "Of this customIdentifier only"),
    ("username", "string", "Of this credential only"),
    ("limit", "integer", "Most rows, 1 to 10000"),
    ("format", "string", "`json` or `csv`, whatever `Accept` says"),
];
const SESSIONS: &[Parameter] = &[
    ("key", "string", "Of this TURN key only"),
    ("custom_identifier", "string", "Of this customIdentifier only"),
    ("username", "string", "Of this credential only"),
    ("limit", "integer", "Most rows, 1 to 1000"),
    ("cursor", "string", "`result_info.cursor` of the page before"),
];
const WHICH_SESSIONS: &[Parameter] = &[
    ("key", "string", "All of this TURN key; needed unless one of the others is there"),
    ("custom_identifier", "string", "Those of this customIdentifier"),
    ("username", "string", "Those of this credential"),
];
const TURN_REST: &[Parameter] = &[
    ("service", "string", "Must be `turn`"),
    ("username", "string", "Whom the credential is for, at most 128 bytes"),
    ("key", "string", "The TURN key's secret, if it is not in the header"),
];

impl Operation {
    /// Every status of a failure.
    pub(super) fn failures(&self) -> Vec<u16> {
        let mut statuses = vec![408, 429, 500, 503];
        match self.permit {
            Permit::Token => statuses.extend([400, 401, 403]),
            Permit::Secret => statuses.extend([401]),
            Permit::Anyone => {}
        }
        if self.path.contains('{') {
            statuses.push(404);
        }
        if self.body.is_some() {
            statuses.extend([400, 413]);
        }
        if self.once {
            statuses.extend([409, 422]);
        }
        if !self.query.is_empty() {
            statuses.push(400);
        }
        statuses.extend(self.more_failures);
        statuses.sort_unstable();
        statuses.dedup();
        statuses
    }

    pub(super) fn parameters(&self) -> Vec<Value> {
        let names = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let in_path = names.map(|name| {
            let (pattern, description) = match name {
                "account_id" => ("^[0-9a-fA-F]{1,32}$", "The account"),
                "key_id" => ("^[0-9a-f]{32}$", "The TURN key"),
                "username" => ("^[^/]+$", "The credential's username"),
                _ => ("^[0-9a-f]{32}$", "Which one"),
            };
            let schema = json!({ "type": "string", "pattern": pattern });
            json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
        });
        let in_query = self.query.iter().map(|(name, kind, description)| {
            let schema = match *kind {
                "date-time" => json!({ "type": "string", "format": "date-time" }),
                kind => json!({ "type": kind }),
            };
            json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
        });
        let once = self.once.then(|| {
            json!({
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "The same request with the same key is answered the same for 24 hours",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
            })
        });
        in_path.chain(in_query).chain(once).collect()
    }
}

fn operation(
    tag: &'static str,
    (id, method, path): (&'static str, &'static str, &'static str),
    summary: &'static str,
    (status, answer): (u16, Answer),
) -> Operation {
    let permit = match tag {
        "Credentials" => Permit::Secret,
        "Service" => Permit::Anyone,
        _ => Permit::Token,
    };
    Operation {
        id,
        method,
        path,
        tag,
        summary,
        permit,
        body: None,
        answers: vec![(status, answer)],
        query: &[],
        more_failures: &[],
        once: false,
    }
}

impl Operation {
    fn takes(self, body: &'static str) -> Self {
        Self { body: Some(body), ..self }
    }

    fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    fn fails(self, more_failures: &'static [u16]) -> Self {
        Self { more_failures, ..self }
    }

    fn also(mut self, status: u16, answer: Answer) -> Self {
        self.answers.push((status, answer));
        self
    }

    fn once(self) -> Self {
        Self { once: true, ..self }
    }
}

/// All of them, in the order of the page.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = keys();
    all.extend(key_state());
    all.extend(account());
    all.extend(usage());
    all.extend(webhooks());
    all.extend(credentials());
    all.extend(service());
    all
}

fn keys() -> Vec<Operation> {
    use Answer::Json;
    const KEYS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys";
    const KEY: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}";
    const LIMITS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/limits";
    const MONTH: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/month_limit";
    const SECRETS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/shared_secrets";
    const SECRET: &str =
        "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/shared_secrets/{secret_id}";
    let tag = "TURN keys";
    vec![
        operation(
            tag,
            ("listTurnKeys", "get", KEYS),
            "All TURN keys of the account",
            (200, Json("TurnKeys")),
        ),
        operation(
            tag,
            ("createTurnKey", "post", KEYS),
            "Make a TURN key; its secret is in this answer and can never be read again",
            (201, Json("CreatedTurnKey")),
        )
        .takes("Name")
        .once(),
        operation(tag, ("getTurnKey", "get", KEY), "One TURN key", (200, Json("OneTurnKey"))),
        operation(
            tag,
            ("updateTurnKey", "put", KEY),
            "Give a TURN key another name",
            (200, Json("OneTurnKey")),
        )
        .takes("Name"),
        operation(
            tag,
            ("deleteTurnKey", "delete", KEY),
            "Delete a TURN key; traffic of its credentials stops within a second",
            (200, Json("OneTurnKey")),
        ),
        operation(tag, ("getLimits", "get", LIMITS), "What a TURN key may use", (200, Json("OneLimits"))),
        operation(
            tag,
            ("setLimits", "put", LIMITS),
            "Set all limits of a TURN key; what is missing or null is not limited",
            (200, Json("OneLimits")),
        )
        .takes("Limits"),
        operation(
            tag,
            ("clearLimits", "delete", LIMITS),
            "Have the relays' own limits hold for a TURN key",
            (200, Json("OneLimits")),
        ),
        operation(
            tag,
            ("getMonthLimit", "get", MONTH),
            "What a TURN key may relay in a calendar month, and what it has",
            (200, Json("OneMonthLimit")),
        ),
        operation(
            tag,
            ("setMonthLimit", "put", MONTH),
            "Set it; what happens when it is reached happens within ten seconds, and ends with the month",
            (200, Json("OneMonthLimit")),
        )
        .takes("MonthLimit"),
        operation(
            tag,
            ("clearMonthLimit", "delete", MONTH),
            "Take it away, and what it has led to",
            (200, Json("OneMonthLimit")),
        ),
        operation(
            tag,
            ("listSharedSecrets", "get", SECRETS),
            "A TURN key's shared secrets, never their text",
            (200, Json("SharedSecrets")),
        ),
        operation(
            tag,
            ("addSharedSecret", "post", SECRETS),
            "Give a TURN key a shared secret, or have one made up; its text is in this answer only",
            (201, Json("AddedSharedSecret")),
        )
        .takes("NewSharedSecret")
        .once(),
        operation(
            tag,
            ("removeSharedSecret", "delete", SECRET),
            "Take a shared secret from a TURN key; traffic of usernames made with it stops within a second",
            (200, Json("OneSharedSecret")),
        ),
    ]
}

fn key_state() -> Vec<Operation> {
    use Answer::Json;
    const STATUS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/status";
    const ROLL: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/roll";
    const SUSPEND: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/suspend";
    const RESUME: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/resume";
    const REVOCATIONS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/revocations";
    let tag = "TURN keys";
    vec![
        operation(
            tag,
            ("getStatus", "get", STATUS),
            "Whether a TURN key is suspended, and until when its former secret is good",
            (200, Json("OneKeyState")),
        ),
        operation(
            tag,
            ("rollSecret", "post", ROLL),
            "Give a TURN key another secret; the former one stays good for overlap_secs",
            (200, Json("RolledTurnKey")),
        )
        .takes("Roll")
        .once(),
        operation(
            tag,
            ("suspend", "post", SUSPEND),
            "Have a TURN key mint nothing and its credentials refused, until it is resumed; traffic stops within a second",
            (200, Json("OneKeyState")),
        ),
        operation(
            tag,
            ("resume", "post", RESUME),
            "Have a suspended TURN key and its credentials accepted again",
            (200, Json("OneKeyState")),
        ),
        operation(
            tag,
            ("listRevocations", "get", REVOCATIONS),
            "A TURN key's revocations that are kept, newest first",
            (200, Json("Revocations")),
        )
        .query(PAGES),
    ]
}

fn account() -> Vec<Operation> {
    use Answer::Json;
    let tag = "Account";
    vec![
        operation(
            tag,
            ("listAccounts", "get", "/client/v4/accounts"),
            "The API token's account, as a list",
            (200, Json("Accounts")),
        ),
        operation(
            tag,
            ("verifyToken", "get", "/client/v4/user/tokens/verify"),
            "Whether the API token is good",
            (200, Json("VerifiedToken")),
        ),
        operation(
            tag,
            ("verifyAccountToken", "get", "/client/v4/accounts/{account_id}/tokens/verify"),
            "Whether the API token is good, and the account's",
            (200, Json("VerifiedToken")),
        ),
        operation(
            tag,
            ("listAudit", "get", "/client/v4/accounts/{account_id}/audit"),
            "Who changed what, newest first",
            (200, Json("Audit")),
        )
        .query(AUDIT),
        operation(
            tag,
            ("listNodes", "get", "/client/v4/accounts/{account_id}/calls/turn_nodes"),
            "The deployment's nodes, with their load and what each has heard of revocations; the same for every account",
            (200, Json("Nodes")),
        ),
    ]
}

fn usage() -> Vec<Operation> {
    use Answer::{Json, JsonOr};
    const SESSION_LIST: &str = "/client/v4/accounts/{account_id}/calls/turn_sessions";
    const SESSION: &str = "/client/v4/accounts/{account_id}/calls/turn_sessions/{session_id}";
    const OF_KEY: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/sessions";
    const USAGE_OF_KEY: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/usage";
    const ROWS: (u16, Answer) = (200, JsonOr("UsageRows", "text/csv; charset=utf-8"));
    let tag = "Usage and sessions";
    vec![
        operation(
            tag,
            ("getUsage", "get", "/client/v4/accounts/{account_id}/calls/turn_usage"),
            "What was relayed for the account, grouped as is asked",
            ROWS,
        )
        .query(USAGE),
        operation(tag, ("getUsageOfKey", "get", USAGE_OF_KEY), "The same of one TURN key", ROWS).query(USAGE),
        operation(
            tag,
            ("graphql", "post", "/client/v4/graphql"),
            "Usage analytics by GraphQL, for an API token that may read; what is wrong with a question is in `errors`",
            (200, Json("GraphQlAnswer")),
        )
        .takes("GraphQlRequest"),
        operation(tag, ("listSessions", "get", SESSION_LIST), "What relays now, newest first", (200, Json("Sessions")))
            .query(SESSIONS),
        operation(
            tag,
            ("endSessions", "delete", SESSION_LIST),
            "End all sessions of a credential, a customIdentifier or a key; who has a good credential may come back",
            (200, Json("EndedSessions")),
        )
        .query(WHICH_SESSIONS),
        operation(tag, ("endSession", "delete", SESSION), "End one session", (200, Json("OneSession"))),
        operation(tag, ("listSessionsOfKey", "get", OF_KEY), "What relays now for one TURN key", (200, Json("Sessions")))
            .query(SESSIONS),
        operation(
            tag,
            ("endSessionsOfKey", "delete", OF_KEY),
            "End all sessions of a TURN key, or those of one of its credentials or customIdentifiers",
            (200, Json("EndedSessions")),
        )
        .query(WHICH_SESSIONS),
    ]
}

fn webhooks() -> Vec<Operation> {
    use Answer::{Json, Nothing};
    const ALL: &str = "/client/v4/accounts/{account_id}/webhooks";
    const ONE: &str = "/client/v4/accounts/{account_id}/webhooks/{webhook_id}";
    const TEST: &str = "/client/v4/accounts/{account_id}/webhooks/{webhook_id}/test";
    const DELIVERIES: &str = "/client/v4/accounts/{account_id}/webhooks/{webhook_id}/deliveries";
    const REDELIVER: &str = "/client/v4/accounts/{account_id}/webhooks/{webhook_id}/redeliver";
    let tag = "Webhooks";
    vec![
        operation(tag, ("listWebhooks", "get", ALL), "All webhooks of the account", (200, Json("Webhooks"))),
        operation(
            tag,
            ("createWebhook", "post", ALL),
            "Have a URL told of events; the secret that they are signed with is in this answer only",
            (201, Json("CreatedWebhook")),
        )
        .takes("NewWebhook")
        .fails(&[409]),
        operation(
            tag,
            ("deleteWebhook", "delete", ONE),
            "Tell it nothing any more",
            (200, Json("OneWebhook")),
        ),
        operation(
            tag,
            ("testWebhook", "post", TEST),
            "Tell it `webhook.test`",
            (204, Nothing("It will be told")),
        ),
        operation(
            tag,
            ("listDeliveries", "get", DELIVERIES),
            "What has not arrived: what waits to be tried again, and what was given up",
            (200, Json("Deliveries")),
        )
        .query(DELIVERIES_QUERY),
        operation(
            tag,
            ("redeliver", "post", REDELIVER),
            "Have what was given up tried again, all or one event",
            (200, Json("Redelivered")),
        )
        .takes("Redelivery"),
    ]
}

fn credentials() -> Vec<Operation> {
    use Answer::{Json, Nothing};
    const REVOKED: Answer = Nothing("Revoked, or it had expired");
    let tag = "Credentials";
    vec![
        operation(
            tag,
            ("generateIceServers", "post", "/v1/turn/keys/{key_id}/credentials/generate-ice-servers"),
            "Mint a credential; iceServers is an array, for an RTCPeerConnection",
            (201, Json("IceServers")),
        )
        .takes("NewCredential")
        .fails(&[403]),
        operation(
            tag,
            ("generate", "post", "/v1/turn/keys/{key_id}/credentials/generate"),
            "Mint a credential; iceServers is one object",
            (201, Json("IceServer")),
        )
        .takes("NewCredential")
        .fails(&[403]),
        operation(
            tag,
            ("revoke", "post", "/v1/turn/keys/{key_id}/credentials/revoke"),
            "Revoke one credential, or all of a customIdentifier, or all issued before a moment; traffic stops within a \
             second",
            (204, REVOKED),
        )
        .takes("Revocation")
        .fails(&[409]),
        operation(
            tag,
            ("revokeUsername", "post", "/v1/turn/keys/{key_id}/credentials/{username}/revoke"),
            "Revoke one credential",
            (204, REVOKED),
        ),
        operation(
            tag,
            ("revokeUsernameOlder", "post", "/v1/turn/keys/{key_id}/credentials/username/{username}/revoke"),
            "Revoke one credential; an older form",
            (204, REVOKED),
        ),
        operation(
            tag,
            ("turnRest", "get", "/turn"),
            "A credential as the TURN REST convention hands it out",
            (200, Json("TurnRest")),
        )
        .query(TURN_REST)
        .fails(&[403]),
    ]
}

fn service() -> Vec<Operation> {
    let tag = "Service";
    vec![
        operation(
            tag,
            ("health", "get", "/healthz"),
            "`ok`",
            (200, Answer::Other("text/plain; charset=utf-8")),
        ),
        operation(
            tag,
            ("readiness", "get", "/readyz"),
            "Whether this process works, and which of its checks say so",
            (200, Answer::Json("Readiness")),
        )
        .also(503, Answer::Json("Readiness")),
        operation(
            tag,
            ("metrics", "get", "/metrics"),
            "Metrics as OpenMetrics text; with the bearer token that the service was given for them, if it was",
            (200, Answer::Other("application/openmetrics-text; version=1.0.0; charset=utf-8")),
        )
        .fails(&[400, 401]),
        operation(
            tag,
            ("description", "get", "/openapi.json"),
            "This description",
            (200, Answer::Json("Any")),
        ),
    ]
}
