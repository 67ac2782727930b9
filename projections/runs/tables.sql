-- Which runs are there, and how do they stand? One row a run; times as in the log (ms).
CREATE TABLE IF NOT EXISTS runs (
  tenant_id         text COLLATE "C" NOT NULL,
  run_id            text COLLATE "C" NOT NULL,
  agent_id          text COLLATE "C" NOT NULL,
  status            text COLLATE "C" NOT NULL,
  created_at        timestamptz NOT NULL,
  started_at        timestamptz,
  completed_at      timestamptz,
  labels            json,   -- json, not jsonb: a caller's text may hold \u0000
  run_options       json NOT NULL,
  output            json,
  error             json,
  steps_total       integer NOT NULL,
  tool_calls_total  integer NOT NULL,
  model_calls_total integer NOT NULL,
  tokens_total      bigint NOT NULL,
  cost_usd          double precision NOT NULL,
  correlation_id    text COLLATE "C",
  forked_from       json,
  sequence          bigint NOT NULL,  -- of its last event
  position          bigint NOT NULL,  -- of its last commit in the log
  PRIMARY KEY (tenant_id, run_id)
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (tenant_id, created_at, run_id);
CREATE INDEX IF NOT EXISTS runs_by_status ON runs (tenant_id, status, created_at, run_id);
CREATE INDEX IF NOT EXISTS runs_by_agent ON runs (tenant_id, agent_id, created_at, run_id);

-- One row a label of a run: `label` is a digest of key and value, so that neither their
-- length nor their characters matter to the index.
CREATE TABLE IF NOT EXISTS run_labels (
  tenant_id  text COLLATE "C" NOT NULL,
  label      uuid NOT NULL,
  created_at timestamptz NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, label, created_at, run_id)
);
