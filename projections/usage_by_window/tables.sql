-- What was used of models, hour by hour? One row a tenant, hour, model, agent and principal
-- ('' where there is none). Money is whole micro-dollars: sums do not depend on their order.
CREATE TABLE IF NOT EXISTS usage_by_window (
  tenant_id     text COLLATE "C" NOT NULL,
  hour          timestamptz NOT NULL,
  model         text COLLATE "C" NOT NULL,
  agent_id      text COLLATE "C" NOT NULL,
  principal_id  text COLLATE "C" NOT NULL,
  calls         bigint NOT NULL,
  errors        bigint NOT NULL,
  blocked       bigint NOT NULL,
  refused       bigint NOT NULL,
  interrupted   bigint NOT NULL,
  input_tokens  bigint NOT NULL,
  output_tokens bigint NOT NULL,
  micro_usd     bigint NOT NULL,
  PRIMARY KEY (tenant_id, hour, model, agent_id, principal_id)
);
