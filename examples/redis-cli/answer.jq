# Records [[position, [field, value]] ...] to the pieces of the answer that stand: [[position, text] ...].
# With --arg upto POSITION: as they stood there.
def order: split("-") | map(tonumber);
def upto($position):
  if $position == "" then .
  elif $position == "0-0" then []
  else
    (map(.[0]) | index($position)) as $at
    | if $at == null then error("this log has no position \($position)") else .[:$at + 1] end
  end;
reduce upto($upto)[] as [$position, [$field, $value]] ({pieces: [], open: []};
  if $field == "chunk" then
    (.open[-1] // {}) as {$part, $choice}
    | if ($part // "text") == "text" and ($choice // 0) == 0 then .pieces += [[$position, $value]] else . end
  elif $field == "delta" or $field == "rewind" then
    ($value | fromjson) as $record
    | if ($record.run // 0) != 0 then .
      elif $field == "rewind" then
        ($record.to | order) as $to
        | .pieces |= map(select((.[0] | order) <= $to))
        | .open |= map(select((.position | order) <= $to))
      elif $record.delta.type == "open" then .open += [$record.delta + {$position}]
      else . end
  else . end)
| .pieces
