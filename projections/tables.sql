-- Where each projection stands in the log. `build` counts the rebuilds of its tables.
CREATE TABLE IF NOT EXISTS projections (
  name       text COLLATE "C" PRIMARY KEY,
  position   bigint NOT NULL,
  version    integer NOT NULL,
  build      bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now()
);
