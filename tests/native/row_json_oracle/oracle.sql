-- The JSON of a row as the crate documents it, computed in SQL by Postgres itself.

-- The number that JavaScript prints for a double: the one with the fewest digits that reads as the
-- double. Postgres prints that too, except if it is halfway to the next double: then it prints one
-- digit more.
CREATE FUNCTION printed_by_javascript(double float8) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    printed numeric := double::text::numeric;
    digits text := rtrim(trunc(printed)::text, '0');
    place integer := CASE WHEN min_scale(printed) > 0 THEN -min_scale(printed)
        ELSE length(trunc(printed)::text) - length(digits) END;
    shorter numeric := trunc(printed, -place - 1);
BEGIN
    IF printed = 0 THEN
        RETURN 0;
    ELSIF shorter::float8 = double THEN
        RETURN shorter;
    END IF;
    shorter := shorter + sign(printed) * ('1e' || place + 1)::numeric;
    RETURN CASE WHEN shorter::float8 = double THEN shorter ELSE printed END;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN printed;
END $$;

-- Whether the number round-trips through JavaScript.
CREATE FUNCTION gives_back(number numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF length(number::text) <= 15 THEN
        RETURN true; -- The fifteen digits that a double always keeps (float.h, DBL_DIG).
    END IF;
    RETURN printed_by_javascript(number::float8) = number;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN false;
END $$;

-- The base type of a domain; any other type itself.
CREATE FUNCTION base_type(type oid) RETURNS oid LANGUAGE plpgsql STABLE AS $$
DECLARE
    below oid := type;
BEGIN
    WHILE (SELECT typtype = 'd' FROM pg_type WHERE oid = below) LOOP
        below := (SELECT typbasetype FROM pg_type WHERE oid = below);
    END LOOP;
    RETURN below;
END $$;

CREATE FUNCTION element_type(type oid) RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT typelem FROM pg_type
    WHERE oid = type AND typelem <> 0 AND typsubscript = 'array_subscript_handler'::regproc
$$;

-- The JSON of a value, with bigint and numeric as strings if they do not round-trip as doubles. The
-- contents of json and jsonb stay as they are.
CREATE FUNCTION with_exact_numbers(value jsonb, type oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    base oid := base_type(type);
    element oid := element_type(base);
BEGIN
    IF base IN ('int8'::regtype, 'numeric'::regtype) THEN
        IF jsonb_typeof(value) = 'number' AND NOT gives_back(value::numeric) THEN
            RETURN to_jsonb(value #>> '{}');
        END IF;
    ELSIF element IS NOT NULL AND jsonb_typeof(value) = 'array'
        AND base_type(element) NOT IN ('json'::regtype, 'jsonb'::regtype) THEN
        -- Further dimensions are arrays of the same type.
        RETURN (
            SELECT coalesce(jsonb_agg(with_exact_numbers(item, base) ORDER BY place), '[]')
            FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, place)
        );
    ELSIF element IS NOT NULL THEN
        RETURN with_exact_numbers(value, element);
    ELSIF jsonb_typeof(value) = 'object' AND (SELECT typtype = 'c' FROM pg_type WHERE oid = base)
    THEN
        RETURN (
            SELECT jsonb_object_agg(attname, with_exact_numbers(value -> attname::text, atttypid))
            FROM pg_attribute
            WHERE attrelid = (SELECT typrelid FROM pg_type WHERE oid = base)
                AND attnum > 0 AND NOT attisdropped
        );
    END IF;
    RETURN value;
END $$;

-- The document as jsonb, or null if jsonb refuses it.
CREATE FUNCTION held_by_jsonb(document json) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN to_jsonb(document);
EXCEPTION WHEN untranslatable_character OR invalid_text_representation
    OR numeric_value_out_of_range THEN
    RETURN NULL;
END $$;
