-- Which runs are executed at peers, and how far is their copy? One row a run.
CREATE TABLE IF NOT EXISTS remote_runs (
  tenant_id  text COLLATE "C" NOT NULL,
  run_id     text COLLATE "C" NOT NULL,
  stack_id   text COLLATE "C" NOT NULL,
  forward_id text COLLATE "C" NOT NULL,
  agent_id   text COLLATE "C" NOT NULL,
  status     text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL,
  labels     uuid[] NOT NULL,   -- digests, as in run_labels
  view       json NOT NULL,     -- the contract's Run; json, not jsonb: it may hold \u0000
  copied     bigint NOT NULL,   -- the sequence up to which its events are here
  has_ended  boolean NOT NULL,
  gaps       json NOT NULL,     -- [{first, last, reason}]
  filled     json NOT NULL,     -- [{first, last, by, cut_ms, at}], the newest
  position   bigint NOT NULL,
  PRIMARY KEY (tenant_id, run_id)
);
CREATE INDEX IF NOT EXISTS remote_runs_by_time ON remote_runs (tenant_id, created_at, run_id);
CREATE INDEX IF NOT EXISTS remote_runs_open ON remote_runs (run_id) WHERE NOT has_ended;
CREATE INDEX IF NOT EXISTS remote_runs_by_stack ON remote_runs (stack_id);
