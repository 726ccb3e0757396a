"""what PostgreSQL can do"""

from alembic import op

revision = "special"
down_revision = "0004"

STATEMENTS = r"""
CREATE EXTENSION hstore

CREATE SCHEMA history

CREATE TABLE currencies (code CHAR(3) PRIMARY KEY, name TEXT NOT NULL, odd hstore, raw BYTEA)

INSERT INTO currencies VALUES ('EUR', 'Euro, "the" one''s', 'a=>"b,c"', '\x00ff'), ('USD', '', NULL, NULL)

CREATE TABLE prices (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    currency CHAR(3) NOT NULL REFERENCES currencies,
    amount NUMERIC NOT NULL,
    twice NUMERIC GENERATED ALWAYS AS (amount * 2) STORED
)

CREATE SEQUENCE invoice_numbers START 1000

SELECT nextval('invoice_numbers')

CREATE TABLE history.log (id BIGSERIAL PRIMARY KEY, entry TEXT)

CREATE FUNCTION history.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO history.log (entry) VALUES (TG_OP || ' ' || TG_TABLE_NAME);
    RETURN NULL;
END $$

CREATE TRIGGER noted AFTER INSERT OR DELETE ON prices FOR EACH ROW EXECUTE FUNCTION history.note()

CREATE FUNCTION history.forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'the history is for ever';
END $$

INSERT INTO prices (currency, amount) VALUES ('EUR', 1), ('USD', 2)

CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON history.log EXECUTE FUNCTION history.forbid()

CREATE TABLE events (at DATE NOT NULL, what TEXT) PARTITION BY RANGE (at)

CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2030-01-01')

CREATE TABLE events_new PARTITION OF events DEFAULT

INSERT INTO events VALUES ('2001-01-01', 'the beginning')

CREATE MATERIALIZED VIEW totals AS SELECT sum(amount) AS total FROM prices

CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS one WITH NO DATA

CREATE TABLE hens (id INTEGER PRIMARY KEY, egg_id INTEGER)

CREATE TABLE eggs (id INTEGER PRIMARY KEY, hen_id INTEGER NOT NULL REFERENCES hens)

ALTER TABLE hens ADD CONSTRAINT hatched FOREIGN KEY (egg_id) REFERENCES eggs
    DEFERRABLE INITIALLY DEFERRED

CREATE UNLOGGED TABLE "an ""odd"" name" ("the id" INTEGER PRIMARY KEY, "select" TEXT)

INSERT INTO "an ""odd"" name" VALUES (1, 'kept')
"""


def upgrade() -> None:
    for statement in STATEMENTS.strip().split("\n\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in (
        'DROP TABLE "an ""odd"" name", hens, eggs, events, prices CASCADE',
        "DROP MATERIALIZED VIEW unfilled",
        "DROP SEQUENCE invoice_numbers",
        "DROP TABLE currencies",
        "DROP SCHEMA history CASCADE",
        "DROP EXTENSION hstore",
    ):
        op.get_bind().exec_driver_sql(statement)
