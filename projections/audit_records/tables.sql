-- What was recorded of a tenant, newest first? Each row is one audit record, whole in `record`.
CREATE TABLE IF NOT EXISTS audit_records (
  tenant_id    text COLLATE "C" NOT NULL,
  position     bigint NOT NULL,
  line         integer NOT NULL,
  time         timestamptz NOT NULL,
  action       text COLLATE "C" NOT NULL,
  principal_id text COLLATE "C" NOT NULL,
  outcome      text COLLATE "C" NOT NULL,
  run_id       text COLLATE "C",
  record       json NOT NULL,
  PRIMARY KEY (tenant_id, position, line)
);
CREATE INDEX IF NOT EXISTS audit_records_action ON audit_records (tenant_id, action, position, line);
CREATE INDEX IF NOT EXISTS audit_records_principal
  ON audit_records (tenant_id, principal_id, position, line);
CREATE INDEX IF NOT EXISTS audit_records_run
  ON audit_records (tenant_id, run_id, position, line) WHERE run_id IS NOT NULL;
