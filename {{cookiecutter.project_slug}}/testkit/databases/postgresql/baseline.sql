-- What the test kit adds to a template database, in a schema of its own: functions that take the
-- database back to a baseline, and sequences that note what happens seldom. A sequence is not undone
-- with a transaction, so it may note too much, but never too little, and no tool that compares schemas
-- looks at it.

CREATE SCHEMA testkit;

CREATE SEQUENCE testkit.schema_changes;
CREATE SEQUENCE testkit.reference_changes;  -- in tables that hold rows in the baseline
CREATE SEQUENCE testkit.view_refreshes;
SELECT setval('testkit.schema_changes', 1), setval('testkit.reference_changes', 1),
       setval('testkit.view_refreshes', 1);

CREATE FUNCTION testkit.note_reference_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('testkit.reference_changes');
    RETURN NULL;
END
$$ SECURITY DEFINER;

CREATE FUNCTION testkit.note_schema_change() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF tg_tag = 'REFRESH MATERIALIZED VIEW' THEN
        PERFORM nextval('testkit.view_refreshes');
    ELSIF tg_event = 'sql_drop' THEN
        PERFORM nextval('testkit.schema_changes')
        FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary LIMIT 1;
    ELSE
        PERFORM nextval('testkit.schema_changes')
        FROM pg_event_trigger_ddl_commands()
        WHERE schema_name IS DISTINCT FROM 'pg_temp' LIMIT 1;
    END IF;
END
$$ SECURITY DEFINER;

-- What a real commit does and the release of a savepoint does not.
CREATE FUNCTION testkit.check_constraints() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
    FOR name IN  -- as they are in the beginning of a transaction
        SELECT format('%I.%I', nspname, conname)
        FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace
        WHERE condeferred
    LOOP
        EXECUTE format('SET CONSTRAINTS %s DEFERRED', name);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA testkit TO PUBLIC;

-- Whether triggers and foreign keys can be switched off, and changes of the schema be noticed.
CREATE FUNCTION testkit.is_privileged() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT rolsuper FROM pg_roles WHERE rolname = current_user
$$;

DO $$
BEGIN
    IF testkit.is_privileged() THEN
        CREATE EVENT TRIGGER testkit_ddl ON ddl_command_end
            EXECUTE FUNCTION testkit.note_schema_change();
        CREATE EVENT TRIGGER testkit_drop ON sql_drop
            EXECUTE FUNCTION testkit.note_schema_change();
    END IF;
END
$$;

-- A number that differs when an entry of the catalogues that describe a schema has come, changed or
-- gone; for roles without event triggers.
CREATE FUNCTION testkit.catalogue_state() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT sum(x)::bigint FROM (
        SELECT sum(xmin::text::bigint) AS x FROM pg_class
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_attribute
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_constraint
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_attrdef
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_proc
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_trigger
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_type
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_enum
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_namespace
        UNION ALL SELECT sum(xmin::text::bigint) FROM pg_rewrite
    ) AS catalogues
$$;

-- The tables that can hold rows: neither views nor the parents of partitions nor foreign tables.
-- Those that refer to others come first, as far as their constraints cannot be deferred; `in_cycle` are
-- those for which there is no such order.
CREATE FUNCTION testkit.tables(OUT name regclass, OUT in_cycle boolean)
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
DECLARE
    remaining oid[] := array(
        SELECT oid FROM pg_class
        WHERE relkind = 'r' AND relpersistence <> 't'
          AND relnamespace <> 'pg_catalog'::regnamespace
          AND relnamespace <> 'information_schema'::regnamespace
          AND relnamespace <> 'testkit'::regnamespace
          AND has_table_privilege(oid, 'DELETE')
        ORDER BY oid
    );
    free oid[];
BEGIN
    in_cycle := false;
    WHILE cardinality(remaining) > 0 LOOP
        free := array(
            SELECT t FROM unnest(remaining) t
            WHERE NOT EXISTS (
                SELECT FROM pg_constraint
                WHERE contype = 'f' AND NOT condeferrable
                  AND confrelid = t AND conrelid <> t AND conrelid = ANY (remaining)
            )
        );
        IF cardinality(free) = 0 THEN
            in_cycle := true;
            free := remaining;
        END IF;
        FOREACH name IN ARRAY free LOOP
            RETURN NEXT;
        END LOOP;
        remaining := array(SELECT unnest(remaining) EXCEPT SELECT unnest(free));
    END LOOP;
END
$$;

-- Makes the present state the baseline number `level`, by writing the functions `undo_LEVEL` and
-- `restore_LEVEL`: straight SQL with all names and rows in it, which is the fastest there is.
CREATE FUNCTION testkit.save_baseline(level integer) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog  -- so that all names are written with their schema
AS $save$
DECLARE
    privileged constant boolean := testkit.is_privileged();
    empty_tables text := '';
    empty_reference text := '';
    fill_reference text := '';
    refresh_views text := '';
    cycle text;
    sequences text;
    has_triggers boolean;
    statement text;
    columns text;
    fields text;
    rows_ text[];
    relation regclass;
    t record;
BEGIN
    SELECT string_agg(name::text, ', ') INTO cycle FROM testkit.tables() WHERE in_cycle;
    FOR t IN SELECT * FROM testkit.tables() LOOP
        EXECUTE format('SELECT array_agg(testkit_row::text) FROM ONLY %s AS testkit_row', t.name)
            INTO rows_;
        has_triggers := NOT privileged AND EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = t.name AND NOT tgisinternal
        );
        statement := CASE
            WHEN privileged OR NOT t.in_cycle THEN format('DELETE FROM ONLY %s;', t.name)
            ELSE format('TRUNCATE %s CASCADE;', cycle)
        END;
        IF has_triggers THEN
            statement := format(
                'ALTER TABLE %1$s DISABLE TRIGGER USER; %2$s ALTER TABLE %1$s ENABLE TRIGGER USER;',
                t.name, statement
            );
        END IF;
        IF rows_ IS NULL THEN
            empty_tables := empty_tables || statement || E'\n';
            CONTINUE;
        END IF;

        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum),
               string_agg('(r).' || quote_ident(attname), ', ' ORDER BY attnum)
        INTO columns, fields
        FROM pg_attribute
        WHERE attrelid = t.name AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        empty_reference := empty_reference || statement || E'\n';
        statement := format(
            'INSERT INTO %1$s (%2$s) OVERRIDING SYSTEM VALUE '
            'SELECT %3$s FROM (SELECT unnest(%4$L::text[])::%1$s AS r OFFSET 0) AS rows;',
            t.name, columns, fields, rows_
        );
        IF has_triggers THEN
            statement := format(
                'ALTER TABLE %1$s DISABLE TRIGGER USER; %2$s ALTER TABLE %1$s ENABLE TRIGGER USER;',
                t.name, statement
            );
        END IF;
        fill_reference := statement || E'\n' || fill_reference;
        -- What is written through a parent does not fire the triggers of its partitions.
        FOR relation IN
            WITH RECURSIVE ancestors (oid) AS (
                SELECT t.name::oid
                UNION SELECT inhparent FROM pg_inherits JOIN ancestors ON inhrelid = oid
            ) SELECT oid FROM ancestors
        LOOP
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER testkit_reference '
                'AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                'FOR EACH STATEMENT EXECUTE FUNCTION testkit.note_reference_change()', relation
            );
        END LOOP;
    END LOOP;

    FOR t IN
        SELECT oid::regclass AS name, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY oid
    LOOP
        refresh_views := refresh_views || format(
            E'REFRESH MATERIALIZED VIEW %s%s;\n',
            t.name, CASE WHEN t.relispopulated THEN '' ELSE ' WITH NO DATA' END
        );
    END LOOP;

    PERFORM setval(seqrelid, last_value, true)
    FROM pg_sequence, pg_sequence_last_value(seqrelid) AS last_value
    WHERE last_value IS NOT NULL AND has_sequence_privilege(seqrelid, 'UPDATE')
      AND seqrelid NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'testkit'::regnamespace);
    SELECT string_agg(format(
        '(%L::regclass, %s::bigint, %s::bigint)',
        seqrelid::regclass, coalesce(pg_sequence_last_value(seqrelid)::text, 'NULL'), seqstart
    ), ', ')
    INTO sequences
    FROM pg_sequence
    WHERE seqrelid NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'testkit'::regnamespace)
      AND has_sequence_privilege(seqrelid, 'UPDATE');
    sequences := CASE WHEN sequences IS NULL THEN '' ELSE format(
        'PERFORM setval(name, coalesce(value, start), value IS NOT NULL) '
        'FROM (VALUES %s) AS saved (name, value, start) '
        'WHERE pg_sequence_last_value(name) IS DISTINCT FROM value;', sequences
    ) END;

    EXECUTE format($restore$
        CREATE OR REPLACE FUNCTION testkit.restore_%1$s() RETURNS void LANGUAGE plpgsql AS $body$
        BEGIN
            %2$s
            %3$s
        END
        $body$
    $restore$, level, empty_reference, fill_reference);

    -- `snapshot`: the transactions of the server at the last call. While they are the same, nothing was
    -- written, not even by `nextval()`, which writes when it is first called after a `setval()`.
    -- `committed`: something may have been committed, so that a change of the schema counts. `sessions`:
    -- how many connections this database has seen, according to the last call; if there are more,
    -- somebody was here past the engine, and may have committed something.
    -- `catalogue`: the state of the catalogues, where there are no event triggers.
    -- `state`: 'same'; 'changed' if the schema is another one; 'reconnect' if something is left in a
    -- session: plans for a schema that was rolled back, or an advisory lock.
    EXECUTE format($undo$
        CREATE OR REPLACE FUNCTION testkit.undo_%1$s(
            INOUT snapshot text, committed boolean, INOUT sessions bigint, INOUT catalogue bigint, OUT state text
        ) LANGUAGE plpgsql AS $body$
        DECLARE
            sessions_before constant bigint := sessions;
            own constant oid := (SELECT oid FROM pg_database WHERE datname = current_database());
            snapshot_now constant text := pg_current_snapshot();
        BEGIN
            state := 'same';
            IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = own) THEN
                state := 'reconnect';
            END IF;
            IF snapshot_now = snapshot THEN
                RETURN;
            END IF;
            snapshot := snapshot_now;
            sessions := pg_stat_get_db_sessions(own);
            committed := committed OR sessions <> sessions_before;
            IF (SELECT last_value FROM testkit.schema_changes) <> 1 THEN
                IF committed THEN
                    state := 'changed';
                    RETURN;
                END IF;
                state := 'reconnect';
                PERFORM setval('testkit.schema_changes', 1);
            END IF;
            %5$s
            %2$s
            %3$s
            PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
            IF (SELECT last_value FROM testkit.reference_changes) <> 1 THEN
                PERFORM testkit.restore_%1$s();
                PERFORM setval('testkit.reference_changes', 1);
            END IF;
            IF (SELECT last_value FROM testkit.view_refreshes) <> 1 THEN
                %4$s
                PERFORM setval('testkit.view_refreshes', 1);
            END IF;
            %6$s
            IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
                snapshot := NULL;  -- it will be another one after this transaction
            END IF;
        END
        $body$
    $undo$, level, sequences, empty_tables, refresh_views,
        CASE WHEN NOT privileged THEN $if$
            IF committed AND testkit.catalogue_state() <> catalogue THEN
                state := 'changed';
                RETURN;
            END IF;
            SET CONSTRAINTS ALL DEFERRED;
        $if$ END,
        CASE WHEN NOT privileged THEN 'catalogue := testkit.catalogue_state();' END
    );
    PERFORM setval('testkit.schema_changes', 1);  -- the functions are no change that counts
END
$save$;
