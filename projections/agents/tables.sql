-- Which agents does a tenant have? The current version of each.
CREATE TABLE IF NOT EXISTS agents (
  tenant_id  text COLLATE "C" NOT NULL,
  agent_id   text COLLATE "C" NOT NULL,
  status     text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  definition json NOT NULL,
  sequence   bigint NOT NULL,
  position   bigint NOT NULL,
  PRIMARY KEY (tenant_id, agent_id)
);
