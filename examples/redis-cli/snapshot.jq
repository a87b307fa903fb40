# A snapshot's segments to records: [[position, [field, value]] ...]. Lengths count characters.
[ .[]
  | if length == 4 then
      # The number of the last position there is has more digits than a JSON number keeps.
      [if .[0] == "end" then "18446744073709551615-18446744073709551615" else "\(.[1])-\(.[2])" end, [.[0], .[3]]]
    else
      . as [$field, $epoch, $seq, $lengths, $text]
      | foreach range($lengths | length) as $number ({to: 0}; {from: .to, to: (.to + $lengths[$number])};
          ["\($epoch)-\($seq + $number)", [$field, $text[.from:.to]]])
    end ]
