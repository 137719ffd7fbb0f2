-- What a TURN key may use, as a JSON object; NULL where the relays' own limits hold.
ALTER TABLE turn_keys ADD COLUMN limits TEXT;
