"""Has testmon run tests again after changes that it does not see.

testmon knows the functions that a test has executed. It does not know what happens outside of single tests: modules
are imported, with the columns of models, the fields of schemas, routes and constants; fixtures that are wider than a
test are set up, and the application with them; migrations run. Nor does it know files that are not Python. After a
change to one of these, each test runs until it has passed once.

`notes` says what the files were, and which tests have passed since; `selection` makes testmon heed it.
"""
