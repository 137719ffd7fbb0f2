-- What is asked for again and again, or while others wait to write, needs no walk through a table.
CREATE INDEX audit_by_target ON audit (account_id, target, seq);
CREATE INDEX denials_of_identifiers ON denials (turn_key, until) WHERE kind = 'identifier';
CREATE INDEX deliveries_dead ON deliveries (created) WHERE due IS NULL;
