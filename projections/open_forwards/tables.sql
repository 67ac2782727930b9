-- Which forwards have no result yet? One row for each; it goes when the result is there.
CREATE TABLE IF NOT EXISTS open_forwards (
  tenant_id  text COLLATE "C" NOT NULL,
  forward_id text COLLATE "C" NOT NULL,
  position   bigint NOT NULL,   -- of the intent
  PRIMARY KEY (tenant_id, forward_id)
);
