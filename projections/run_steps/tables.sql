-- What did a run do, step by step? `sequence` is that of `step.started`.
CREATE TABLE IF NOT EXISTS run_steps (
  tenant_id   text COLLATE "C" NOT NULL,
  run_id      text COLLATE "C" NOT NULL,
  step_id     text COLLATE "C" NOT NULL,
  sequence    bigint NOT NULL,
  kind        text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  status      text COLLATE "C" NOT NULL,  -- running, ok, error
  started_at  timestamptz NOT NULL,
  duration_ms bigint,
  position    bigint NOT NULL,
  PRIMARY KEY (tenant_id, run_id, step_id)
);
