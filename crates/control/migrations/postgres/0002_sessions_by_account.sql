-- An account goes with its sessions, of which most have ended.
CREATE INDEX turn_sessions_by_account ON turn_sessions (account_id);
