# Completes the command line of gap_jax in fish; made by: gap_jax completion fish

function __gap_jax_at -d 'Tells whether the words before the cursor lead to a command'
    set -l node
    for word in (commandline -opc)[2..]
        string match -q -- '-*' $word; and continue
        contains -- (string join ' ' $node $word) $__gap_jax_nodes; or break
        set -a node $word
    end
    test "$node" = "$argv[1]"
end

function __gap_jax_place -d 'Tells whether the cursor is at a positional argument: NODE INDEX OPTION-WITH-VALUE...'
    __gap_jax_at $argv[1]; or return
    set -l count (count (string split -n ' ' -- $argv[1]))
    set -l skips 0
    set -l before 0
    for word in (commandline -opc)[2..]
        if test $skips = 1
            set skips 0
        else if string match -q -- '-*' $word
            contains -- $word $argv[3..]; and set skips 1
        else
            set before (math $before + 1)
        end
    end
    test $skips = 0; or return
    switch $argv[2]
        case '*+'
            test (math $before - $count) -ge (string trim -c + $argv[2])
        case '*'
            test (math $before - $count) = $argv[2]
    end
end

function __gap_jax_folders
    __fish_complete_directories (string replace -r -- '^-[^=]*=' '' (commandline -ct))
end

function __gap_jax_field -d 'Offers --config.group.field=, or the values of the field'
    set -l word (commandline -ct)
    string match -q -- '--c*' $word; or return
    set -l named (string match -r -- '^[^=]*=' $word)
    for entry in $__gap_jax_fields
        set -l field (string split \t -- $entry)
        if test -z "$named"
            printf '%s\t%s\n' $field[1] $field[2]
        else if test "$named" = $field[1]
            switch $field[3]
                case '(file)'
                    set -l begun (string replace -r -- '^[^=]*=' '' $word)
                    for path in $begun*
                        test -d $path; and set path $path/
                        printf '%s%s\n' $named $path
                    end
                case '(*'
                case '*'
                    printf "$named%s\n" $field[3..]
            end
        end
    end
end

function __gap_jax_config -d 'Offers FILE, or FILE:part,part with one part of each kind'
    set -l word (string replace -r -- '^-[^=]*=' '' (commandline -ct))
    if not string match -q -- '*:*' $word
        printf '%s\n' $__gap_jax_configs
        for file in $word*.py $word*/
            printf '%s\n' $file
        end
        return
    end
    set -l file (string split -m 1 -f 1 : -- $word)
    set -l given (string split -n , -- (string replace -r -- '[^,]*$' '' (string split -m 1 -f 2 : -- $word)))
    set -l stem (string replace -r '\.py$' '' (string replace -r '^.*/' '' -- $file))
    for line in (__gap_jax_parts $stem)
        set -l of_kind (string split ' ' -- $line)
        for part in $given
            contains -- $part $of_kind; and set of_kind
        end
        for part in $of_kind
            printf '%s:%s\n' $file (string join , -- $given $part)
        end
    end
end

@TABLE@
